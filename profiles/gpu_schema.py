"""The schema of a GPU card, for whoever edits `profiles/gpus/*.yaml`: the tests hold every entry against it.

Types come from `GpuCard` itself through pydantic, so there is one definition; the checks between fields are here. Imported only by
those who validate: pydantic takes longer to load than all the cards.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from datetime import date
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ftadvise.profiles.errors import InputError, did_you_mean
from ftadvise.profiles.gpu_cards import GpuCard, GpuPrices

_ADAPTER = TypeAdapter(GpuCard)
_KEYS = {field.name for field in fields(GpuCard)}
_PRICE_KEYS = {field.name for field in fields(GpuPrices)}


def validate_card(entry: Any, *, where: str, sources: Iterable[str]) -> GpuCard:
    """One YAML entry as a card.

    Args:
        entry: what the YAML holds.
        where: the file and the entry, for the message.
        sources: the keys of the source legend; every source must start with one of them (`name#<entry>` stands for `name#...`) or be a URL.

    Raises:
        InputError: unknown key, wrong type, a figure that is not positive, or fields that contradict each other; names entry and key.
    """
    if not isinstance(entry, dict):
        raise InputError(f"{where}: an entry is a mapping of keys, not {type(entry).__name__}")
    _known_keys(entry, _KEYS, where)
    prices = entry.get("price_usd_per_gpu_hour")
    if isinstance(prices, dict):
        _known_keys(prices, _PRICE_KEYS, f"{where}, price_usd_per_gpu_hour")
    try:
        card = _ADAPTER.validate_python(entry)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where}, key {key!r}: {first['msg']}") from None
    for problem in (*_bad_figures(card), *_contradictions(card), *_bad_sources(card, tuple(sources))):
        raise InputError(f"{where}, {card.name}: {problem}")
    return card


def _known_keys(mapping: dict[Any, Any], known: set[str], where: str) -> None:
    for key in mapping:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}", hint=did_you_mean(str(key), known))


def _bad_figures(card: GpuCard) -> Iterable[str]:
    """Every number is positive; every text has something in it."""
    for field in fields(card):
        value = getattr(card, field.name)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, (int, float)) and not isinstance(item, bool) and not item > 0:
                yield f"{field.name} is {item}, which is not positive"
            if isinstance(item, str) and not item.strip():
                yield f"{field.name} is empty"


def _contradictions(card: GpuCard) -> Iterable[str]:
    if not card.sources:
        yield "sources is empty"
    if not set(card.nvml_names_verified) <= set(card.nvml_names):
        yield "nvml_names_verified has a name that nvml_names lacks"
    if card.memory_options_gib and card.memory_gib != max(card.memory_options_gib):
        yield "memory_gib is not the largest of memory_options_gib"
    if (card.visible_memory_gib is None) != (card.visible_memory_source is None):
        yield "visible_memory_gib and visible_memory_source go together"
    if card.visible_memory_gib is not None and (card.memory_gib is None or card.visible_memory_gib > card.memory_gib):
        yield "visible_memory_gib is larger than memory_gib"
    if card.form_factor and not card.family:
        yield "form_factor without family"
    if (card.fp16_tflops is None and card.bf16_tflops is None) != (card.tensor_basis is None):
        yield "matrix rates and tensor_basis go together"
    if card.supports_bf16 is False and card.bf16_tflops is not None:
        yield "a bf16 rate although supports_bf16 is false"
    if (card.vendor == "NVIDIA") != (card.compute_capability is not None):
        yield "compute_capability is for NVIDIA, and every NVIDIA card has one"
    if card.release_date is not None:
        try:
            date.fromisoformat(card.release_date)
        except ValueError:
            yield f"release_date {card.release_date!r} is not YYYY-MM-DD"
    for key in card.unconfirmed:
        if key not in _KEYS or getattr(card, key) in (None, ()):
            yield f"unconfirmed names {key!r}, which this entry does not state"
    prices = card.price_usd_per_gpu_hour
    if prices and not (prices.median_all > 0 and 0 < prices.n_all <= len(prices.points)):
        yield "price without points"


def _bad_sources(card: GpuCard, legend: tuple[str, ...]) -> Iterable[str]:
    stems = tuple(key.split("#")[0] for key in legend)
    for source in card.sources:
        if not source.startswith(("https://", "http://", *stems)):
            yield f"source {source!r} is not in the legend"
