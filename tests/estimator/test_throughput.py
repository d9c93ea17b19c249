"""Throughput: coarse in this version, but its directions are right and its unknowns are None."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.estimator.layout import layout_of
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.throughput import estimate_throughput, flops_per_token
from ftadvise.profiles.hardware import GIB, Cpu, Gpu, Hardware
from ftadvise.profiles.resolve_gpu import resolve_gpus
from ftadvise.profiles.resolve_model import resolve_model

CPU = Cpu("any", 4, 8, supports_bf16=False, supports_amx=False)
QWEN = resolve_model("Qwen/Qwen-7B")
A100 = resolve_gpus("A100 SXM4 80GB")[0]
LONG = Recipe(micro_batch=8, seq_len=4096)


def on(gpu: Gpu | None, **cpu: Any) -> Hardware:
    return Hardware((gpu,) if gpu else (), dataclasses.replace(CPU, **cpu), 64 * GIB, 48 * GIB, "named")


def speed(hardware: Hardware, recipe: Recipe) -> float:
    throughput = estimate_throughput(QWEN, hardware, recipe)
    assert throughput is not None
    assert throughput.low < throughput.tokens_per_second < throughput.high
    return throughput.tokens_per_second


@given(factor=st.floats(1, 10), seq_len=st.integers(16, 8192), nf4=st.booleans())
def test_a_faster_card_is_never_slower(factor: float, seq_len: int, nf4: bool) -> None:
    recipe = Recipe(seq_len=seq_len, quantization="nf4" if nf4 else "none")
    assert A100.bf16_flops_per_s is not None
    assert A100.bandwidth_bytes_per_s is not None
    more_compute = dataclasses.replace(A100, bf16_flops_per_s=A100.bf16_flops_per_s * factor)
    more_bandwidth = dataclasses.replace(A100, bandwidth_bytes_per_s=A100.bandwidth_bytes_per_s * factor)
    before = speed(on(A100), recipe)
    assert speed(on(more_compute), recipe) >= before
    assert speed(on(more_bandwidth), recipe) >= before


@given(micro_batch=st.integers(1, 16), seq_len=st.integers(512, 8192))
def test_expanding_four_bit_weights_never_makes_a_compute_bound_step_faster(micro_batch: int, seq_len: int) -> None:
    recipe = Recipe(micro_batch=micro_batch, seq_len=seq_len)
    plain = estimate_throughput(QWEN, on(A100), recipe)
    assert plain is not None
    assert plain.bound_by == "compute"
    assert speed(on(A100), recipe.replace(quantization="nf4")) < plain.tokens_per_second


def test_the_expansion_is_shared_by_more_tokens() -> None:
    def slowdown(recipe: Recipe) -> float:
        return speed(on(A100), recipe) / speed(on(A100), recipe.replace(quantization="nf4"))

    assert slowdown(Recipe(seq_len=128)) > slowdown(LONG) > 1


def test_checkpointing_costs_one_more_forward_pass() -> None:
    ratio = speed(on(A100), LONG.replace(gradient_checkpointing=False)) / speed(on(A100), LONG)
    assert 1.2 < ratio < 1.5


def test_work_of_a_token_is_six_flop_per_weight_when_all_are_trained() -> None:
    layout = layout_of(QWEN)
    recipe = Recipe(method="full", seq_len=1, gradient_checkpointing=False)
    head = QWEN.vocab_size * QWEN.hidden_size
    assert flops_per_token(layout, recipe) == pytest.approx(6 * layout.linear_parameters + 8 * head, rel=1e-3)
    frozen = flops_per_token(layout, recipe.replace(method="lora"))
    assert frozen == pytest.approx(4 * layout.linear_parameters + 6 * head, rel=1e-3)


@pytest.mark.parametrize("unknown", ["bf16_flops_per_s", "bandwidth_bytes_per_s"])
def test_a_card_without_rates_has_no_throughput(unknown: str) -> None:
    assert estimate_throughput(QWEN, on(dataclasses.replace(A100, **{unknown: None})), Recipe()) is None


def test_a_step_is_all_micro_batches_of_the_accumulation() -> None:
    throughput = estimate_throughput(QWEN, on(A100), Recipe(micro_batch=2, seq_len=512, gradient_accumulation=8))
    assert throughput is not None
    assert throughput.seconds_per_step * throughput.tokens_per_second == pytest.approx(2 * 512 * 8)


def test_the_cpu_says_what_makes_it_slow() -> None:
    emulated = estimate_throughput(QWEN, on(None), Recipe(quantization="nf4"))
    native = estimate_throughput(QWEN, on(None, supports_bf16=True), Recipe())
    assert emulated is not None
    assert native is not None
    assert emulated.tokens_per_second < native.tokens_per_second
    assert [note.split()[0] for note in emulated.notes] == ["bf16", "nf4"]
    assert native.notes == ()
    assert speed(on(None, supports_avx512=True), Recipe(compute_dtype="fp32")) > speed(on(None), Recipe(compute_dtype="fp32"))
