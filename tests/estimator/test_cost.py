"""Hours, money and energy from steps, speed, prices and power."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.api import estimate
from ftadvise.estimator.cost import Cost, Job, power_share, with_cost
from ftadvise.estimator.estimate_types import Estimate, ThroughputEstimate
from ftadvise.estimator.lengths import LengthStats
from ftadvise.profiles.errors import InputError

MODEL = "SmolLM2-135M-Instruct"


def speed(**changes: Any) -> ThroughputEstimate:
    return dataclasses.replace(ThroughputEstimate(1000.0, 3.6, 800.0, 1250.0, "compute", {"matmul": 1.0}), **changes)


def priced(job: Job, gpu: str = "A100-80GB", throughput: ThroughputEstimate | None = None, **recipe: Any) -> Estimate:
    found = dataclasses.replace(estimate(MODEL, gpu=gpu, **recipe), throughput=throughput or speed())
    return with_cost(found, job)


def cost(job: Job, gpu: str = "A100-80GB", **changes: Any) -> Cost:
    found = priced(job, gpu, **changes).cost
    assert found is not None
    return found


def test_steps_times_seconds_times_price() -> None:
    found = cost(Job(examples=800, price_usd_per_gpu_hour=2.0), epochs=2.0)
    assert found.steps == 100
    assert found.hours == pytest.approx((0.1, 0.08, 0.125))
    assert found.usd == pytest.approx((0.2, 0.16, 0.25))
    assert found.energy_kwh == pytest.approx((0.1 * 0.4 * 0.88, 0.08 * 0.4 * 0.75, 0.125 * 0.4 * 1.0))
    assert (found.price_basis, found.gpus) == ("given", 1)


def test_several_gpus_take_fewer_steps_and_all_are_paid() -> None:
    one, four = cost(Job(examples=6400)), cost(Job(examples=6400), "4x A100-80GB", sharding="ddp")
    assert (one.steps, four.steps) == (1200, 300)
    assert one.usd is not None
    assert four.usd is not None
    assert four.usd.value == pytest.approx(one.usd.value)  # a quarter of the steps of the same length, on four GPUs
    assert four.price_usd_per_gpu_hour == one.price_usd_per_gpu_hour == 2.15
    idle = cost(Job(examples=6400), "4x A100-80GB", sharding="none")
    assert (idle.steps, idle.energy_kwh) == (1200, one.energy_kwh)
    assert idle.usd is not None
    assert idle.usd.value == pytest.approx(4 * one.usd.value)


def test_the_length_of_the_training() -> None:
    lengths = LengthStats.of([100] * 640, measured=True)
    job = Job(lengths=lengths)
    assert job.examples == 640
    assert cost(job, seq_len=1000, epochs=1.0).steps == 40
    assert cost(job, seq_len=1000, epochs=1.0, packing=True).steps == 4
    assert cost(job, max_steps=7).steps == 7
    unknown = priced(Job())
    assert unknown.cost is None
    million = unknown.cost_per_million_tokens
    assert million is not None
    assert (million.steps, million.hours.value) == (None, pytest.approx(1e6 / 1000 / 3600))


def test_electricity_of_a_card_of_ones_own() -> None:
    found = cost(Job(examples=800, electricity_usd_per_kwh=0.3))
    assert (found.price_usd_per_gpu_hour, found.price_basis) == (0.0, "given")
    assert found.usd is not None
    assert found.energy_kwh is not None
    assert found.usd == pytest.approx(found.energy_kwh.scaled(0.3))
    both = cost(Job(examples=800, electricity_usd_per_kwh=0.3, price_usd_per_gpu_hour=1.0))
    assert both.usd is not None
    assert both.usd.value == pytest.approx(found.usd.value + both.hours.value)


def test_what_is_not_known_stays_open() -> None:
    unpriced = cost(Job(examples=800), "RTX 2080 Ti")
    assert (unpriced.usd, unpriced.price_basis) == (None, None)
    assert unpriced.energy_kwh is not None
    on_cpu = cost(Job(examples=800, electricity_usd_per_kwh=0.3), "cpu")
    assert (on_cpu.usd, on_cpu.energy_kwh) == (None, None)
    rented_cpu = cost(Job(examples=800, price_usd_per_gpu_hour=0.5), "cpu")
    assert rented_cpu.usd is not None
    assert rented_cpu.usd.value == pytest.approx(0.5 * rented_cpu.hours.value)
    no_speed = with_cost(dataclasses.replace(estimate(MODEL, gpu="A100-80GB"), throughput=None), Job(examples=5))
    assert (no_speed.cost, no_speed.cost_per_million_tokens) == (None, None)


@pytest.mark.parametrize("wrong", [-1.0, -1e-9, float("nan"), float("inf")])
@pytest.mark.parametrize(("field", "flag"), [("price_usd_per_gpu_hour", "--price"), ("electricity_usd_per_kwh", "--electricity")])
def test_a_negative_price_is_refused(field: str, flag: str, wrong: float) -> None:
    with pytest.raises(InputError, match=f"{flag} must be 0 or more, not"):
        Job(**{field: wrong})  # type: ignore[arg-type]


def test_no_examples_are_refused() -> None:
    with pytest.raises(InputError, match="nothing to train on"):
        Job(examples=0)


def test_power_follows_the_kind_of_work() -> None:
    compute, memory = power_share(speed()), power_share(speed(shares={"elementwise": 0.6, "dequantization": 0.4}))
    waiting = power_share(speed(shares={"launch": 1.0}))
    assert compute.value > memory.value > waiting.value
    half = power_share(speed(shares={"matmul": 0.5, "launch": 0.5}))
    assert half.value == pytest.approx((compute.value + waiting.value) / 2)
    unknown = speed(shares={"something new": 1.0}, bound_by="memory")
    assert power_share(unknown) == memory
    assert power_share(speed(shares={})) == compute


def test_every_class_of_the_speed_model_has_its_power() -> None:
    from ftadvise.estimator.cost import _power
    from ftadvise.estimator.speed.step_time import CLASSES

    power = _power()
    assert set(CLASSES) <= set(power["classes"])
    assert set(power["classes"].values()) == set(power["kinds"])
    for kind in power["kinds"].values():
        assert 0 < kind["low"] <= kind["share"] <= kind["high"] <= 1


@given(
    examples=st.integers(1, 10**6),
    price=st.floats(0, 100),
    low=st.floats(1, 1000),
    high=st.floats(1000, 5000),
    electricity=st.floats(0, 2),
)
def test_intervals_hold_their_figures_and_the_document_is_plain(
    examples: int, price: float, low: float, high: float, electricity: float
) -> None:
    job = Job(examples, price_usd_per_gpu_hour=price, electricity_usd_per_kwh=electricity)
    found = with_cost(dataclasses.replace(_ONE, throughput=speed(low=low, high=high)), job)
    assert found.cost is not None
    for span in (found.cost.hours, found.cost.usd, found.cost.energy_kwh):
        assert span is not None
        assert 0 <= span.low <= span.value <= span.high
    document = found.to_json()["cost"]
    assert document["usd"] == pytest.approx(found.cost.usd.value if found.cost.usd else 0, rel=1e-3)
    assert set(document) >= {"steps", "hours", "hours_low", "hours_high", "usd_low", "usd_high", "energy_kwh", "price_basis"}


_ONE = estimate(MODEL, gpu="A100-80GB")
