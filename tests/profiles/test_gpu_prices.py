"""What a GPU's price rests on."""

from __future__ import annotations

import dataclasses

import pytest

from ftadvise.profiles.gpu_cards import all_gpu_cards, card_to_gpu
from ftadvise.profiles.gpu_prices import list_prices
from ftadvise.profiles.resolve_gpu import resolve_gpus

PRICED = [card for card in all_gpu_cards() if card.price_usd_per_gpu_hour]


def test_a_price_says_how_far_the_lists_lie_apart_and_of_when_they_are() -> None:
    prices = list_prices(resolve_gpus("A100-80GB")[0])
    assert prices is not None
    assert (prices.median, prices.low, prices.high, prices.points) == (2.15, 0.87, 5.07, 15)
    assert (prices.as_of, prices.dated) == ("2026-09-06", 3)
    undated = list_prices(resolve_gpus("RTX 4090")[0])
    assert undated is not None
    assert (undated.as_of, undated.dated) == (None, 0)


@pytest.mark.parametrize("card", PRICED, ids=lambda card: card.name)
def test_every_point_is_read_and_the_median_lies_between(card: object) -> None:
    card = next(each for each in PRICED if each is card)
    prices = list_prices(card_to_gpu(card))
    assert prices is not None
    assert card.price_usd_per_gpu_hour is not None
    assert prices.points == len(card.price_usd_per_gpu_hour.points)
    assert 0 < prices.low <= prices.median * 1.01
    assert prices.median <= prices.high * 1.01


def test_without_a_price_there_is_none() -> None:
    assert list_prices(resolve_gpus("RTX 2080 Ti")[0]) is None
    gpu = resolve_gpus("A100-80GB")[0]
    assert list_prices(dataclasses.replace(gpu, price_usd_per_hour=None)) is None
    assert list_prices(dataclasses.replace(gpu, name=f"{gpu.name} MIG 1g.10gb")) is None
