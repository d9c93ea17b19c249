"""From what a user types ("2x A100-80GB", "rtx4090", the string nvidia-smi prints) to GPUs.

A name is read as a set of words, cut where letters meet digits, without vendor words and without the memory size: "RTX4090",
"rtx-4090" and "NVIDIA GeForce RTX 4090" are {rtx, 4090}. A card matches when one of its labels (name, alias, NVML string) has all the
words asked for; the label with the fewest words left over wins, so "4090" is the RTX 4090 and not the 4090 D. An alias may choose
between boards that differ in form (PCIe or SXM), never between two memory sizes: "A100" is ambiguous, "A100-80GB" is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ftadvise.profiles.errors import InputError, did_you_mean
from ftadvise.profiles.gpu_cards import GpuCard, all_gpu_cards, card_to_gpu
from ftadvise.profiles.gpu_names import (
    Label,
    all_labels,
    cards_by_exact_string,
    cards_by_nvml_string,
    fold,
    nvml_key,
    squash,
    stated_size,
    words_of,
)
from ftadvise.profiles.hardware import GIB, Gpu

MAX_GPUS = 1024
_MAX_TEXT = 200
_MAX_UNIFIED_GIB = 1024
_LISTED = 8

_LEADING_COUNT = re.compile(r"([0-9]+)\s*[x×*]\s*(.+)")
# The x of "A100 x2" is no part of a word ("RTX 4090"), except after a size ("A100-80GBx2").
_TRAILING_COUNT = re.compile(r"(.*?[^\s])\s*(?:(?<![a-z])|(?<=gb)|(?<=gib))[x×*]\s*([0-9]+)")


def resolve_gpus(text: str) -> tuple[Gpu, ...]:
    """The GPUs that `text` names: `[COUNT x] NAME`, or `NAME x COUNT`; "cpu" and "none" name no GPU.

    Each GPU is one device: a board that software sees as two (MI250) gives two.

    Raises:
        InputError: unknown name (hint: the nearest), several boards of that name (all listed), a memory size the board does not come
            in, a count of 0 or above 1024.
    """
    folded = fold(text)
    if folded in ("cpu", "none"):
        return ()
    if not folded or len(text) > _MAX_TEXT:
        raise InputError("the GPU name is empty" if not folded else "the GPU name is too long", hint='for example: --gpu "RTX 4090"')
    count, name = _split_count(folded)
    if not 1 <= count <= MAX_GPUS:
        raise InputError(f"{_quote(text)}: the number of GPUs must be between 1 and {MAX_GPUS}")
    card, memory_bytes = _resolve_card(name, shown=text)
    return (card_to_gpu(card, memory_bytes=memory_bytes),) * (count * card.devices_per_board)


def match_nvml_name(name: str, memory_bytes: int) -> Gpu | None:
    """The profile of the GPU that NVML calls `name`, or None when no profile has that string.

    Boards that share the string (RTX 3060 of 8 and 12 GB) are told apart by the nearest memory size. Prefixes that drivers added or
    dropped over the years ("NVIDIA", "GeForce", "Tesla") do not matter.
    """
    card = match_nvml_card(name, memory_bytes)
    return None if card is None else card_to_gpu(card)


def match_nvml_card(name: str, memory_bytes: int) -> GpuCard | None:
    """`match_nvml_name`, as the card."""
    cards = cards_by_nvml_string().get(nvml_key(name), ())
    known = [(card.memory_bytes, card) for card in cards if card.memory_bytes is not None]
    return min(known, key=lambda pair: abs(pair[0] - memory_bytes))[1] if known else None


def list_gpus(query: str = "") -> tuple[GpuCard, ...]:
    """The cards with a label that holds every word of `query`, in file order; all of them for an empty query."""
    folded = fold(query)
    words, size = words_of(folded), stated_size(folded)
    found = {id(label.card) for label in all_labels() if _fits(words, label) and _has_size(label.card, size)}
    return tuple(card for card in all_gpu_cards() if id(card) in found)


def _split_count(text: str) -> tuple[int, str]:
    """`2x name` and `name x2` as (2, name). Of two bare numbers ("2x4090", "4090x2") the smaller is the count."""
    leading, trailing = _LEADING_COUNT.fullmatch(text), _TRAILING_COUNT.fullmatch(text)
    if leading and leading[2].isdecimal():
        count, name = sorted((leading[1], leading[2]), key=lambda number: (len(number), number))
    elif leading:
        count, name = leading[1], leading[2]
    elif trailing:
        name, count = trailing[1], trailing[2]
    else:
        return 1, text
    # More digits than any valid count has: no need to convert them (int() refuses very long ones).
    return (MAX_GPUS + 1 if len(count.lstrip("0")) > 4 else int(count)), name


def _resolve_card(name: str, *, shown: str) -> tuple[GpuCard, int | None]:
    """The one card that `name` means, and its memory when the name, not the card, decides it."""
    exact = cards_by_exact_string().get(squash(name))
    if exact:
        return _only(exact, shown), _memory(exact[0], None)
    words, size = words_of(name), stated_size(name)
    matching = [label for label in all_labels() if _fits(words, label)] if words else []
    if not matching:
        known = [label for card in all_gpu_cards() for label in (card.name, *card.aliases)]
        raise InputError(f"no GPU is called {_quote(shown)}", hint=did_you_mean(name, known) or "list the known ones: ftadvise gpus")
    # The words choose the model, the size then chooses within it: "RTX 4090 16GB" is a mistake, not the laptop board.
    models = {label.model for label in _least(matching, [label.left_over(words) for label in matching])}
    sized = [label for label in matching if label.model in models and _has_size(label.card, size)]
    if not sized:
        known_cards = _distinct(label.card for label in matching if label.model in models or _has_size(label.card, size))
        raise InputError(f"{_quote(shown)}: no such board has {size} GB", hint=f"known: {_describe(known_cards)}")
    best = _least(sized, [label.left_over(words) + ((label.size is None) != (size is None)) for label in sized])
    cards = _distinct(label.card for label in best)
    chosen = {(label.model, label.card.form_factor) for label in best}
    other_sizes = {label.card.name for label in sized if (label.model, label.card.form_factor) in chosen} - {cards[0].name}
    if len(cards) > 1 or (other_sizes and not any(label.is_name for label in best)):
        models = {label.model for label in best}
        cards = _distinct(label.card for label in sized if label.model in models)
    card = _only(cards, shown)
    return card, _memory(card, size)


def _memory(card: GpuCard, size: int | None) -> int | None:
    """The memory that the text chooses, for unified memory; None = the card's own."""
    if card.form == "soc" and size is not None:
        return size * GIB
    if card.memory_bytes is None:
        raise InputError(f"{card.name} comes in several memory sizes", hint=f'say which: --gpu "{card.name} 64GB"')
    return None


def _least(labels: list[Label], scores: list[int]) -> list[Label]:
    return [label for label, score in zip(labels, scores, strict=True) if score == min(scores)]


def _fits(words: frozenset[str], label: Label) -> bool:
    """Every word asked for is in the label; one may also be the bare memory size ("A100 80")."""
    missing = words - label.words
    return not missing or missing == {_nominal_gib(label.card)}


def _has_size(card: GpuCard, size: int | None) -> bool:
    """Unified memory (systems on a chip) is sold in more sizes than the data lists: any up to the largest known is taken."""
    if size is None:
        return True
    if card.form == "soc":
        return 1 <= size <= (card.memory_gib or _MAX_UNIFIED_GIB)
    return _nominal_gib(card) == str(size)


def _nominal_gib(card: GpuCard) -> str | None:
    return None if card.memory_gib is None else f"{card.memory_gib:g}"


def _only(cards: Iterable[GpuCard], shown: str) -> GpuCard:
    """The one card, or an error that lists them all."""
    first, *others = cards
    if not others:
        return first
    raise InputError(f"{_quote(shown)} is ambiguous: {_describe((first, *others))}", hint=f'name one of them: --gpu "{first.name}"')


def _describe(cards: Iterable[GpuCard]) -> str:
    names = [
        card.name if (nominal := _nominal_gib(card)) is None or f"{nominal}GB" in card.name else f"{card.name} ({nominal} GB)"
        for card in cards
    ]
    more = [] if len(names) <= _LISTED else [f"and {len(names) - _LISTED} more"]
    return ", ".join(names[:_LISTED] + more)


def _distinct(cards: Iterable[GpuCard]) -> list[GpuCard]:
    return list({card.name: card for card in cards}.values())


def _quote(text: str) -> str:
    """`text` fit for one line of a message: hostile names hold line breaks and terminal codes."""
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return f"'{shown if len(shown) <= 60 else shown[:57] + '...'}'"
