"""From what a user typed to a ModelSpec: a known name, a path, or a hub repository.

Names are compared without case and punctuation: as one word ("llama3-8b", "Llama 3 8B"), then as a row of words and numbers that may lack
its beginning ("Llama-3-8B-Instruct" for Meta-Llama-3-8B-Instruct), its end, or words in between. Models that share a card (base and
instruct) are never ambiguous with one another.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ftadvise.profiles.errors import InputError, did_you_mean
from ftadvise.profiles.model_cards import all_cards, card_to_spec
from ftadvise.profiles.model_spec import ModelSpec

_DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
_SHOWN_CANDIDATES = 8
_MAX_NAME = 4096

Words = tuple[str, ...]


class _Name(NamedTuple):
    """A name under which a card is known, and the hub id it stands for: the card's own (`variant` None) or a variant's."""

    text: str
    card: int
    variant: str | None


def default_model_id() -> str:
    """The hub id of the model that is used when none is named; its weights come with the demo extra."""
    return _DEFAULT_MODEL


def list_models(query: str | None = None) -> list[ModelSpec]:
    """The known models, in the order of the card files; with a query those of which a name contains it (case and punctuation ignored)."""
    wanted = _squeeze(query or "")
    matching = dict.fromkeys(name.card for name in _names() if wanted in _squeeze(name.text))
    return [card_to_spec(all_cards()[card]) for card in matching]


def resolve_model(name: str, *, offline: bool | None = None) -> ModelSpec:
    """The model that a user means by `name`.

    Args:
        name: hub id, short name, folder with config.json, or GGUF file.
        offline: as `hub.spec_from_hub`; concerns only ids in the form organisation/name that no card has.

    Raises:
        InputError: nothing matches (with the nearest names), several models match (with the candidates), or the file or hub fails.
    """
    name = name.strip()
    if not name or len(name) > _MAX_NAME or not name.isprintable():
        raise InputError("the model name is empty, too long or not printable", hint=f"for example: --model {_DEFAULT_MODEL}")
    path = _as_path(name)
    if path is not None:
        from ftadvise.profiles.local_model import spec_from_path

        return spec_from_path(path)

    found = _exact(name)
    has_organisation = "/" in name
    if not found and not has_organisation:
        found = _partial(_words(name))
    if found:
        return _only(name, found)

    from ftadvise.profiles.hub import is_hub_id, spec_from_hub

    if not (has_organisation and is_hub_id(name)):
        raise InputError(f"unknown model {name[:100]!r}", hint=_nearest(name) or "list them: ftadvise models")
    try:
        return spec_from_hub(name, offline=offline)
    except InputError as error:
        raise InputError(str(error), hint="; ".join(filter(None, (_nearest(name), error.hint)))) from None


def _as_path(name: str) -> Path | None:
    """`name` as a path when it is written like one or a model is there."""
    written_so = name.startswith(("/", "./", "../", "~", ".\\", "..\\")) or name in (".", "..") or Path(name).is_absolute()
    try:
        path = Path(name).expanduser()
        there = (path / "config.json").is_file() or (path.is_file() and path.suffix == ".gguf")
    except (OSError, ValueError, RuntimeError):  # too long for the file system, no home folder
        return Path(name) if written_so else None
    return path if written_so or there or name.endswith(".gguf") else None


@functools.cache
def _names() -> tuple[_Name, ...]:
    """Every name of every card: its id, its variants' ids, other names, then all of them without organisation."""
    names: list[_Name] = []
    for index, card in enumerate(all_cards()):
        ids: list[tuple[str, str | None]] = [(card["id"], None)]
        ids += [(variant["id"], variant["id"]) for variant in card.get("variants", ())]
        ids += [(card[key], None) for key in ("modelscope_id", "llamafactory_name") if key in card]
        ids += [(alias, None) for alias in card.get("aliases", ())]
        names += [_Name(text, index, variant) for text, variant in ids]
        names += [_Name(text.rpartition("/")[2], index, variant) for text, variant in ids if "/" in text]
    return tuple(names)


@functools.cache
def _by_squeezed() -> dict[str, list[_Name]]:
    index: dict[str, list[_Name]] = {}
    for name in _names():
        index.setdefault(_squeeze(name.text), []).append(name)
    return index


@functools.cache
def _by_words() -> tuple[tuple[Words, _Name], ...]:
    return tuple((_words(name.text), name) for name in _names())


def _words(text: str) -> Words:
    """Words and numbers, case folded: "Qwen2.5-7B" and "qwen2_5 7b" are qwen, 2.5, 7, b."""
    return tuple(re.findall(r"[^\W\d_]+|\d+(?:\.\d+)*", re.sub(r"(?<=\d)_(?=\d)", ".", text.casefold())))


def _squeeze(text: str) -> str:
    """`text` as one word, to compare names whatever separates their parts."""
    return "".join(_words(text))


def _exact(name: str) -> list[_Name]:
    folded = name.casefold()
    as_typed = [known for known in _names() if known.text.casefold() == folded]
    return [known for known in as_typed if known.text == name] or as_typed or _by_squeezed().get(_squeeze(name), [])


def _partial(words: Words) -> list[_Name]:
    """The names of which `words` is the end, else the beginning, else a part in order."""
    if not words:
        return []
    size = len(words)
    tests: tuple[Callable[[Words], bool], ...] = (
        lambda full: _without_points(full) == _without_points(words),
        lambda full: full[-size:] == words,
        lambda full: full[:size] == words,
        lambda full: _in_order(words, full),
    )
    for test in tests:
        found = [name for full, name in _by_words() if "/" not in name.text and test(full)]
        if found:
            return found
    return []


def _without_points(words: Words) -> Words:
    return tuple(word.replace(".", "") for word in words)


def _in_order(words: Words, full: Words) -> bool:
    rest = iter(full)
    return all(word in rest for word in words)


def _only(name: str, found: list[_Name]) -> ModelSpec:
    """The one model among the matches; the first match of a card speaks for it."""
    by_card: dict[int, _Name] = {}
    for match in found:
        by_card.setdefault(match.card, match)
    matches = list(by_card.values())
    if len(matches) > 1:
        ids = [match.variant or _card(match)["id"] for match in matches]
        shown = ", ".join(ids[:_SHOWN_CANDIDATES])
        more = f", ... and {len(ids) - _SHOWN_CANDIDATES} more" if len(ids) > _SHOWN_CANDIDATES else ""
        raise InputError(f"{name!r} may mean {len(ids)} models: {shown}{more}", hint="write one of these ids")
    return card_to_spec(_card(matches[0]), matches[0].variant)


def _card(name: _Name) -> dict[str, Any]:
    return all_cards()[name.card]


def _nearest(name: str) -> str | None:
    """A hint for a name that nothing matched. An id of a known model under another organisation is near; else spelling decides."""
    organisation, _, tail = name[:100].rpartition("/")
    matches = (_exact(tail) or _partial(_words(tail)))[:3] if organisation else []
    if matches:
        return "did you mean " + " or ".join(dict.fromkeys(match.variant or _card(match)["id"] for match in matches)) + "?"
    return did_you_mean(tail, (known.text.rpartition("/")[2] for known in _names()))
