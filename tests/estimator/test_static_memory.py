"""Static memory against bytes counted by hand from the rules of bitsandbytes, PEFT and torch's AdamW."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.estimator.memory import price_memory
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.stack import stack_of
from ftadvise.estimator.static_memory import StaticMemory, quantization_constant_bytes
from ftadvise.estimator.tape.context import LinearLayer
from ftadvise.profiles.hardware import GIB, Cpu, Hardware
from ftadvise.profiles.resolve_gpu import resolve_gpus
from ftadvise.profiles.resolve_model import resolve_model

_CPU = Cpu("any", 8, 8, False, False)
MACHINES = {
    "cpu": Hardware((), _CPU, 64 * GIB, 64 * GIB, "named"),
    "cuda": Hardware(resolve_gpus("A100 SXM4 80GB"), _CPU, 64 * GIB, 64 * GIB, "named"),
}

NF4 = Recipe(quantization="nf4")
NF4_DOUBLE = Recipe(quantization="nf4", double_quantization=True)
# Qwen-7B: 32 layers of c_attn 4096 x 12288, c_proj 4096 x 4096, w1 and w2 4096 x 11008, c_proj 11008 x 4096; head and embedding apart
QWEN_LAYER = (4096 * 12288, 4096 * 4096, 4096 * 11008, 4096 * 11008, 11008 * 4096)
QWEN_LINEAR = 32 * sum(QWEN_LAYER)
QWEN_TOTAL = 7_721_324_544


def static(model: str, recipe: Recipe, *, device: str = "cuda", stack: str = "trl") -> StaticMemory:
    return price_memory(resolve_model(model), MACHINES[device], recipe, stack_of(stack)).static


def test_bf16_weights_are_two_bytes_each() -> None:
    assert static("Qwen/Qwen-7B", Recipe()).weights == 2 * QWEN_TOTAL


def test_nf4_halves_a_byte_of_the_linear_layers_and_leaves_embedding_and_head() -> None:
    memory = static("Qwen/Qwen-7B", NF4)
    assert memory.weights == QWEN_LINEAR // 2 + 2 * (QWEN_TOTAL - QWEN_LINEAR)
    # one fp32 absmax per 64 weights, and a code book of 16 fp32 per layer
    assert memory.quantization_constants == 32 * sum(4 * elements // 64 + 64 for elements in QWEN_LAYER)


def test_double_quantisation_keeps_one_byte_per_block() -> None:
    def constants(elements: int) -> int:
        blocks = elements // 64
        # uint8 absmax; their own fp32 absmax per 256; a 256-entry and a 16-entry fp32 code book; the fp32 offset
        return blocks + 4 * -(-blocks // 256) + 1024 + 64 + 4

    assert static("Qwen/Qwen-7B", NF4_DOUBLE).quantization_constants == 32 * sum(map(constants, QWEN_LAYER))


def test_int8_keeps_one_scale_per_row() -> None:
    memory = static("Qwen/Qwen-7B", Recipe(quantization="int8"))
    assert memory.weights == QWEN_LINEAR + 2 * (QWEN_TOTAL - QWEN_LINEAR)
    assert memory.quantization_constants == 32 * 4 * (12288 + 4096 + 11008 + 11008 + 4096)


@given(inputs=st.integers(1, 4096), outputs=st.integers(1, 4096))
def test_double_quantisation_pays_once_a_layer_is_not_tiny(inputs: int, outputs: int) -> None:
    linear = LinearLayer(0, "x", inputs, outputs, bias=False)
    once, twice = quantization_constant_bytes(linear, NF4), quantization_constant_bytes(linear, NF4_DOUBLE)
    assert once >= 4 * linear.weight_elements / 64
    assert (twice < once) == (twice - once < 0)
    if linear.weight_elements >= 64 * 512:
        assert twice < once


def test_modules_kept_in_high_precision_are_not_quantised() -> None:
    kept = static("Qwen/Qwen-7B", NF4.replace(high_precision_modules=("c_attn",)))
    assert kept.weights - static("Qwen/Qwen-7B", NF4).weights == 32 * 4096 * 12288 * 3 // 2


def test_kbit_preparation_casts_what_is_not_quantised_to_fp32() -> None:
    plain, cast = static("Qwen/Qwen-7B", NF4), static("Qwen/Qwen-7B", NF4, stack="transformers-kbit")
    assert cast.weights - plain.weights == 2 * (QWEN_TOTAL - QWEN_LINEAR)
    assert static("Qwen/Qwen-7B", Recipe(), stack="transformers-kbit") == static("Qwen/Qwen-7B", Recipe())


@pytest.mark.parametrize(
    ("model", "per_rank"),
    # published sums of (inputs + outputs) over all linear layers: the cards' `lora_params_per_rank`
    [("Qwen/Qwen-7B", 2_236_416), ("Qwen/Qwen-1_8B", 838_656), ("Qwen/Qwen-14B", 3_486_720)],
)
def test_adapters_gradients_and_moments_follow_the_adapter_dtype(model: str, per_rank: int) -> None:
    for dtype, size in (("fp32", 4), ("bf16", 2)):
        memory = static(model, Recipe(rank=8, adapter_dtype=dtype))  # type: ignore[arg-type]
        assert memory.trainable_parameters == 8 * per_rank
        assert memory.adapters == memory.gradients == 8 * per_rank * size
        assert memory.optimizer_state == 2 * 8 * per_rank * size


def test_step_counters_live_with_the_tensors_on_the_cpu_only() -> None:
    cpu, cuda = static("Qwen/Qwen-7B", Recipe(), device="cpu"), static("Qwen/Qwen-7B", Recipe())
    assert cpu.optimizer_state - cuda.optimizer_state == 4 * 32 * 5 * 2


def test_full_fine_tuning_trains_every_parameter() -> None:
    memory = static("Qwen/Qwen-7B", Recipe(method="full"))
    assert memory.trainable_parameters == QWEN_TOTAL
    assert memory.adapters == 0
    assert memory.gradients == memory.weights == memory.optimizer_state // 2


def test_dora_adds_one_magnitude_per_output() -> None:
    lora, dora = static("Qwen/Qwen-7B", Recipe()), static("Qwen/Qwen-7B", Recipe(method="dora"))
    assert dora.trainable_parameters - lora.trainable_parameters == 32 * (12288 + 4096 + 11008 + 11008 + 4096)


@pytest.mark.parametrize("method", ["adalora", "ia3", "prefix", "prompt", "adapter"])
def test_other_methods_train_something_but_far_less_than_the_model(method: Any) -> None:
    memory = static("Qwen/Qwen-7B", Recipe(method=method))
    assert 0 < memory.trainable_parameters < QWEN_TOTAL / 20
