"""The reverse question: which GPUs can do it, time against money."""

from __future__ import annotations

from typing import Any

import pytest
from advisor_stand_ins import a_gpu, a_machine, a_model, pricer
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.advisor.offers import Offers, gpus_on_offer, offers
from ftadvise.advisor.plan_types import PlanRequest
from ftadvise.advisor.rule_set import load_rules
from ftadvise.profiles.hardware import Gpu

SMALL = a_gpu(8, "Small", price_usd_per_hour=0.2, bf16_flops_per_s=30e12)
MIDDLE = a_gpu(24, "Middle", price_usd_per_hour=0.5)
DEAR = a_gpu(24, "Dear", price_usd_per_hour=3.0)
FAST = a_gpu(80, "Fast", price_usd_per_hour=6.0, bf16_flops_per_s=400e12)
OWN = a_gpu(24, "Own")


def answer(billion: float, *gpus: Gpu, **request: Any) -> Offers:
    model = a_model(billion)
    return offers(model, a_machine(), gpus, PlanRequest(**request), lambda machine: pricer(model, machine), load_rules())


def test_the_cheapest_comes_first_and_the_front_is_marked() -> None:
    found = answer(7.7, DEAR, FAST, OWN, MIDDLE, SMALL, examples=1000).found
    assert [offer.gpu.name for offer in found if offer.pareto] == ["Middle", "Fast"]
    assert found[0].gpu.name == "Middle"
    assert found[-1].gpu.name == "Own"
    assert found[-1].usd is None
    assert {offer.estimate.recipe.seq_len for offer in found} == {1024}


def test_what_cannot_is_named() -> None:
    found = answer(70, SMALL, MIDDLE, FAST)
    assert [offer.gpu.name for offer in found.found] == ["Fast"]
    assert found.too_small == ("Small", "Middle")
    assert found.per_million_tokens


@pytest.mark.parametrize(("limit", "figure"), [("budget_usd", "usd"), ("max_hours", "hours")])
def test_limits_come_first_and_the_front_keeps_them(limit: str, figure: str) -> None:
    free = answer(7.7, DEAR, FAST, MIDDLE, SMALL, examples=2000).found
    middle = sorted(getattr(offer, figure) for offer in free)[1]
    found = answer(7.7, DEAR, FAST, MIDDLE, SMALL, examples=2000, **{limit: 1.01 * middle}).found
    kept = [offer.within_limits for offer in found]
    assert set(kept) == {True, False}
    assert kept == sorted(kept, reverse=True)
    assert all(offer.within_limits for offer in found if offer.pareto)


@given(gpus=st.lists(st.tuples(st.floats(6, 100), st.floats(0.1, 5) | st.none(), st.floats(1e13, 1e15)), min_size=1, max_size=6))
def test_nothing_beats_the_front_and_the_front_beats_the_rest(gpus: list[tuple[float, float | None, float]]) -> None:
    boards = [
        a_gpu(size, f"GPU {index}", price_usd_per_hour=price, bf16_flops_per_s=rate) for index, (size, price, rate) in enumerate(gpus)
    ]
    found = [offer for offer in answer(3, *boards, examples=500).found if offer.usd is not None and offer.hours is not None]
    front = [offer for offer in found if offer.pareto]
    for offer in found:
        here = (offer.hours, offer.usd)
        others = [(other.hours, other.usd) for other in found]
        assert offer.pareto == (not any(hours <= here[0] and usd <= here[1] and (hours, usd) != here for hours, usd in others))
    assert bool(front) == bool(found)


def test_the_document_has_every_offer() -> None:
    document = answer(7.7, MIDDLE, FAST, examples=1000, budget_usd=20).to_json()
    assert document["schema"] == "ftadvise.offers/1"
    assert document["budget_usd"] == 20
    first = document["offers"][0]
    assert first["gpu"] == "Middle"
    assert first["recipe"]["seq_len"] == document["seq_len"] == 1024
    assert first["usd"] == pytest.approx(first["hours"] * first["usd_per_hour"], rel=1e-3)


def test_the_boards_on_offer_can_train() -> None:
    boards = gpus_on_offer()
    assert len(boards) > 80
    assert all(gpu.supports_bitsandbytes and gpu.vendor == "NVIDIA" and gpu.memory_bytes for gpu in boards)
    assert any(gpu.price_usd_per_hour for gpu in boards)
    names = [gpu.name for gpu in boards]
    assert len(set(names)) == len(names)
