"""What the price of a GPU rests on: the list prices of its card, how far they lie apart, how many there are, and of when."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from ftadvise.profiles.gpu_cards import GPU_FOLDER, GpuCard, all_gpu_cards
from ftadvise.profiles.hardware import Gpu
from ftadvise.profiles.yaml_store import load_yaml_folder

_POINT = re.compile(r"(?P<provider>.+?) (?P<usd>\d+(?:\.\d+)?) \[(?P<source>[^\]]+)\]")


@dataclass(frozen=True, slots=True)
class ListPrices:
    """On-demand list prices of one GPU, in US dollars per hour, before any discount.

    Attributes:
        median: over all points, what `Gpu.price_usd_per_hour` is.
        low, high: the cheapest and the dearest point. Marketplaces and hyperscalers differ two- to fivefold.
        points: how many there are.
        as_of: the date (YYYY-MM-DD) of those points whose source has one; None where none has.
        dated: how many points have that date; of the others only the source is known.
    """

    median: float
    low: float
    high: float
    points: int
    as_of: str | None
    dated: int


def list_prices(gpu: Gpu) -> ListPrices | None:
    """The list prices behind `gpu.price_usd_per_hour`; None where its card has none, and for part of a card (MIG)."""
    card = _cards().get(gpu.name)
    prices = card.price_usd_per_gpu_hour if card else None
    if card is None or prices is None or gpu.price_usd_per_hour is None:
        return None
    dates: dict[str, str] = load_yaml_folder(GPU_FOLDER)["_sources.yaml"]["source_dates"]
    points = [match for match in map(_POINT.fullmatch, prices.points) if match]
    dollars = [float(match["usd"]) / card.devices_per_board for match in points]
    found = [dates[match["source"]] for match in points if match["source"] in dates]
    return ListPrices(
        median=gpu.price_usd_per_hour,
        low=min(dollars),
        high=max(dollars),
        points=len(points),
        as_of=max(found, default=None),
        dated=len(found),
    )


@lru_cache(maxsize=1)
def _cards() -> dict[str, GpuCard]:
    return {card.name: card for card in all_gpu_cards()}
