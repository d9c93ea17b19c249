"""GPU names as words: how "RTX4090", "rtx-4090" and "NVIDIA GeForce RTX 4090" come to be the same.

A name is cut at punctuation and where letters meet digits; vendor words and the memory size are taken out.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from ftadvise.profiles.gpu_cards import GpuCard, all_gpu_cards

_VENDOR_WORDS = frozenset(
    [
        "nvidia",
        "geforce",
        "tesla",
        "amd",
        "instinct",
        "radeon",
        "intel",
        "apple",
        "huawei",
        "gpu",
        "gpus",
        "graphics",
        "card",
        "generation",
        "edition",
        "corporation",
    ]
)
_SERIES_WORDS = frozenset({"rtx", "gtx", "rx"})
_SIZE = re.compile(r"(?<![a-z0-9])([0-9]{1,6})\s*(?:gib|gb|g)(?![a-z0-9])")


@dataclass(frozen=True, slots=True)
class Label:
    """One way to write a card.

    `implied` is a leading series word that people leave out ("rtx" of "RTX 4090"); `size` the memory the label states;
    `is_name` tells the card's own name from aliases and NVML strings.
    """

    card: GpuCard
    words: frozenset[str]
    implied: frozenset[str]
    size: int | None
    is_name: bool

    @property
    def model(self) -> str:
        """The model without its memory size or form factor, which several cards share."""
        return self.card.family or self.card.name

    def left_over(self, words: frozenset[str]) -> int:
        """How many words of the label were not asked for."""
        return len(self.words - words - self.implied)


def fold(text: str) -> str:
    """Case, full-width forms and spaces evened out."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def stated_size(folded: str) -> int | None:
    """The memory size in GB that the text states, or None."""
    found = _SIZE.search(folded)
    return int(found[1]) if found else None


def word_list(folded: str) -> list[str]:
    """Words in order: cut at punctuation and between letters and digits; no vendor words, no size. SXM2, SXM4, SXM5 count as SXM."""
    text = re.sub(r"\bsxm[0-9]\b", "sxm", _SIZE.sub(" ", folded).replace("_", " "))
    return [word for word in re.findall(r"[^\W\d_]+|[0-9]+", text) if word not in _VENDOR_WORDS]


def words_of(folded: str) -> frozenset[str]:
    """The distinct words of a folded name."""
    return frozenset(word_list(folded))


def squash(folded: str) -> str:
    """Letters and digits only."""
    return re.sub(r"[\W_]+", "", folded)


def nvml_key(name: str) -> tuple[tuple[str, ...], int | None]:
    """What makes two driver strings the same card: their words, and the memory size in GB that they state."""
    folded = fold(name)
    return tuple(word_list(folded)), stated_size(folded)


@lru_cache(maxsize=1)
def all_labels() -> tuple[Label, ...]:
    """Every name and alias of every card."""
    labels = []
    for card in all_gpu_cards():
        for text in (card.name, *card.aliases, *card.nvml_names):
            folded = fold(text)
            words = word_list(folded)
            implied = _SERIES_WORDS.intersection(words[:1])
            labels.append(Label(card, frozenset(words), implied, stated_size(folded), text == card.name))
    return tuple(labels)


@lru_cache(maxsize=1)
def cards_by_exact_string() -> dict[str, list[GpuCard]]:
    """Names and NVML strings by their letters and digits; an NVML string that boards share leads to all of them."""
    cards: dict[str, list[GpuCard]] = {}
    for card in all_gpu_cards():
        for key in {squash(fold(text)) for text in (card.name, *card.nvml_names)}:
            cards.setdefault(key, []).append(card)
    return cards


@lru_cache(maxsize=1)
def cards_by_nvml_string() -> dict[tuple[tuple[str, ...], int | None], list[GpuCard]]:
    """The cards that report each driver string; boards of several sizes may share one."""
    cards: dict[tuple[tuple[str, ...], int | None], list[GpuCard]] = {}
    for card in all_gpu_cards():
        for key in {nvml_key(text) for text in card.nvml_names}:
            cards.setdefault(key, []).append(card)
    return cards
