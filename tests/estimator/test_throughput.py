"""The estimate of speed: tokens and seconds, its interval and where it is from, what is unknown."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.estimator.activations import Batch
from ftadvise.estimator.estimate import estimate
from ftadvise.estimator.estimate_types import ThroughputEstimate
from ftadvise.estimator.lengths import LengthStats, at_mean_length
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.recorded_step import recorded_step
from ftadvise.estimator.speed.device_rates import rates_of
from ftadvise.estimator.stack import stack_of
from ftadvise.estimator.throughput import estimate_throughput
from ftadvise.profiles.hardware import GIB, Cpu, Gpu, Hardware
from ftadvise.profiles.probe import named_hardware
from ftadvise.profiles.resolve_gpu import resolve_gpus
from ftadvise.profiles.resolve_model import resolve_model

CPU = Cpu("any", 4, 8, supports_bf16=False, supports_amx=False)
QWEN, SMALL = resolve_model("Qwen/Qwen-7B"), resolve_model("HuggingFaceTB/SmolLM2-135M")
A100 = resolve_gpus("A100 SXM4 80GB")[0]
TRL = stack_of()


def on(*gpus: Gpu, **cpu: Any) -> Hardware:
    return Hardware(gpus, dataclasses.replace(CPU, **cpu), 64 * GIB, 48 * GIB, "named")


def speed(recipe: Recipe, hardware: Hardware | None = None, model: Any = QWEN) -> ThroughputEstimate:
    found = estimate_throughput(model, hardware or on(A100), recipe, TRL)
    assert found is not None
    return found


@given(
    micro_batch=st.integers(1, 32),
    seq_len=st.integers(16, 8192),
    accumulation=st.integers(1, 64),
    quantization=st.sampled_from(["none", "nf4", "int8"]),
    method=st.sampled_from(["lora", "prompt", "ia3"]),
)
def test_an_estimate_is_consistent_with_itself(micro_batch: int, seq_len: int, accumulation: int, quantization: Any, method: Any) -> None:
    recipe = Recipe(method=method, micro_batch=micro_batch, seq_len=seq_len, gradient_accumulation=accumulation, quantization=quantization)
    found = speed(recipe)
    assert found.tokens_per_second * found.seconds_per_step == pytest.approx(micro_batch * seq_len * accumulation)
    assert 0 < found.low < found.tokens_per_second < found.high
    assert sum(found.shares.values()) == pytest.approx(1)
    assert sum(found.stretches.values()) == pytest.approx(1)
    assert found.mfu is not None
    assert 0 < found.mfu < 1
    assert found.basis == "derived"
    assert found.useful_share is None


def test_every_gpu_with_a_profile_is_used_below_its_peak() -> None:
    recipe = Recipe(compute_dtype="fp16", micro_batch=8, seq_len=2048)
    for name in ("T4", "RTX 3060 12GB", "RTX 4090", "L4", "V100 SXM2 16GB", "H100 SXM", "B200"):
        mfu = speed(recipe, named_hardware(name)).mfu
        assert mfu is not None
        assert 0.1 < mfu < 0.95


def test_utilisation_counts_no_recomputation() -> None:
    """At the same rates, doing the forward pass again is time that nothing comes of."""
    recipe = Recipe(micro_batch=8, seq_len=2048)
    again, once = speed(recipe).mfu, speed(recipe.replace(gradient_checkpointing=False)).mfu
    assert again is not None
    assert once is not None
    assert once / again == pytest.approx(4 / 3, abs=0.12)


@pytest.mark.parametrize("unknown", ["bf16_flops_per_s", "bandwidth_bytes_per_s"])
def test_a_card_without_rates_has_no_throughput(unknown: str) -> None:
    assert estimate_throughput(QWEN, on(dataclasses.replace(A100, **{unknown: None})), Recipe(), TRL) is None


def test_a_card_without_bf16_has_none_for_it() -> None:
    turing = named_hardware("T4")
    assert estimate_throughput(QWEN, turing, Recipe(compute_dtype="bf16", adapter_dtype="fp32"), TRL) is None
    assert estimate_throughput(QWEN, turing, Recipe(compute_dtype="fp16"), TRL) is not None


def test_several_gpus_share_the_work_and_count_together() -> None:
    recipe = Recipe(micro_batch=4, seq_len=2048)
    one, four = speed(recipe), speed(recipe.replace(sharding="ddp"), on(*[A100] * 4))
    assert 3.5 < four.tokens_per_second / one.tokens_per_second <= 4
    # without sharding only the first is used
    assert speed(recipe, on(*[A100] * 4)).tokens_per_second == one.tokens_per_second


def test_a_slow_host_widens_the_interval_where_it_decides() -> None:
    small, large = speed(Recipe(micro_batch=1, seq_len=32), model=SMALL), speed(Recipe(micro_batch=8, seq_len=2048))
    assert small.bound_by == "overhead"
    assert large.bound_by == "compute"
    assert small.low / small.tokens_per_second < 0.8 * large.low / large.tokens_per_second
    assert small.high / small.tokens_per_second == pytest.approx(large.high / large.tokens_per_second)


def test_a_model_that_nobody_described_is_less_certain() -> None:
    unknown = dataclasses.replace(QWEN, id="somebody/new", model_type="something_new")
    described, other = speed(Recipe()), speed(Recipe(), model=unknown)
    assert other.high / other.tokens_per_second > 1.2 * described.high / described.tokens_per_second
    assert other.low / other.tokens_per_second < described.low / described.tokens_per_second / 1.2


def test_own_rates_replace_those_of_the_data_sheet() -> None:
    hardware = on(A100)
    rates = rates_of(hardware)
    assert rates is not None
    own = dataclasses.replace(rates, basis="calibrated", interval=(0.9, 1.1), sustained=rates.sustained / 2)
    found = estimate_throughput(QWEN, hardware, Recipe(micro_batch=8, seq_len=2048), TRL, rates=own)
    plain = speed(Recipe(micro_batch=8, seq_len=2048))
    assert found is not None
    assert found.basis == "calibrated"
    assert found.high == pytest.approx(1.1 * found.tokens_per_second)
    assert 1.3 < plain.tokens_per_second / found.tokens_per_second < 2


def test_a_batch_that_is_given_is_timed_instead_of_the_largest() -> None:
    recipe = Recipe(micro_batch=4, seq_len=2048, gradient_accumulation=2)
    batch = Batch(4, 300, masked=True)
    short = estimate_throughput(QWEN, on(A100), recipe, TRL, batch=batch)
    assert short is not None
    assert short.seconds_per_step < speed(recipe).seconds_per_step / 3
    assert short.tokens_per_second * short.seconds_per_step == pytest.approx(2 * 4 * 300)
    step = recorded_step(QWEN, on(A100), recipe, TRL, batch)
    assert estimate_throughput(QWEN, on(A100), recipe, TRL, step=step) == short


def test_padding_is_told_from_useful_tokens_where_the_data_is_known() -> None:
    recipe = Recipe(micro_batch=4, seq_len=1024)
    lengths = LengthStats.of([100, 200, 300, 2000], measured=True)
    found = at_mean_length(estimate(QWEN, on(A100), recipe), lengths).throughput
    assert found is not None
    assert found.useful_share == pytest.approx((100 + 200 + 300 + 1024) / 4 / 1024)  # the one batch there is has the longest in it
    packed = at_mean_length(estimate(QWEN, on(A100), recipe.replace(packing=True)), lengths).throughput
    assert packed is not None
    assert packed.useful_share == 1


def test_the_cpu_is_slower_in_what_it_emulates() -> None:
    def tokens(recipe: Recipe, **cpu: Any) -> float:
        return speed(recipe, on(**cpu), SMALL).tokens_per_second

    half, full = Recipe(seq_len=512), Recipe(seq_len=512, compute_dtype="fp32")
    assert tokens(half) < tokens(full) < tokens(full, supports_avx512=True)
    assert tokens(half) < tokens(half, supports_bf16=True)
    assert tokens(full.replace(quantization="nf4")) < tokens(full)
    assert speed(full, on(), SMALL).mfu is None


def test_the_document_has_its_keys() -> None:
    document = json.loads(json.dumps(estimate(QWEN, on(A100), Recipe()).to_json()))["throughput"]
    assert list(document) == [
        "tokens_per_second", "seconds_per_step", "low", "high", "bound_by", "shares", "stretches", "mfu",
        "useful_tokens_per_second", "basis",
    ]  # fmt: skip
    assert document["basis"] == "derived"
    assert document["useful_tokens_per_second"] is None
    assert set(document["stretches"]) == {"forward", "recomputation", "backward"}
    nothing = on(dataclasses.replace(A100, bandwidth_bytes_per_s=None))
    assert estimate(QWEN, nothing, Recipe()).to_json()["throughput"] is None
