"""What must hold for every recipe: more of anything never needs less memory, sums are sums, the verdict follows the numbers."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ftadvise.estimator.activations import Batch, batch_of
from ftadvise.estimator.estimate import estimate
from ftadvise.estimator.estimate_types import PHASES, Components, Estimate, MemoryEstimate
from ftadvise.estimator.memory import estimate_memory, price_memory
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.stack import stack_of
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.hardware import GIB, Cpu, Hardware
from ftadvise.profiles.model_spec import ModelSpec
from ftadvise.profiles.resolve_gpu import resolve_gpus
from ftadvise.profiles.resolve_model import resolve_model

CPU = Cpu("any", 4, 8, supports_bf16=False, supports_amx=False)
MACHINES = [Hardware((), CPU, 32 * GIB, 24 * GIB, "named")] + [
    Hardware(resolve_gpus(name), CPU, 64 * GIB, 48 * GIB, "named") for name in ("RTX 4090", "A100 SXM4 80GB", "H100 SXM")
]
MODELS = [
    resolve_model(name)
    for name in (
        "Qwen/Qwen-7B",
        "Qwen/Qwen2.5-0.5B",
        "Qwen/Qwen3-8B",
        "meta-llama/Llama-3.1-8B",
        "openai-community/gpt2",
        "microsoft/Phi-3-mini-4k-instruct",
        "mistralai/Mixtral-8x7B-v0.1",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    )
]
TRL = stack_of("trl")


@st.composite
def recipes(draw: st.DrawFn, *, methods: tuple[str, ...] = ("lora", "dora", "full")) -> Recipe:
    """Recipes that these machines could run."""
    method: Any = draw(st.sampled_from(methods))
    quantization: Any = "none" if method == "full" else draw(st.sampled_from(["none", "nf4", "int8"]))
    return Recipe(
        method=method,
        quantization=quantization,
        double_quantization=quantization == "nf4" and draw(st.booleans()),
        compute_dtype=draw(st.sampled_from(["fp32", "bf16"])),
        adapter_dtype=draw(st.sampled_from(["fp32", "bf16"])),
        rank=draw(st.integers(1, 256)),
        dropout=draw(st.sampled_from([0.0, 0.05])),
        micro_batch=draw(st.integers(1, 16)),
        gradient_accumulation=draw(st.sampled_from([1, 4])),
        seq_len=draw(st.integers(16, 8192)),
        packing=draw(st.booleans()),
        gradient_checkpointing=draw(st.booleans()),
        attention=draw(st.sampled_from(["sdpa", "eager"])),
        loss=draw(st.sampled_from(["full", "chunked", "fused"])),
        optimizer=draw(st.sampled_from(["adamw_torch", "adamw_torch_fused", "adamw_8bit", "adafactor", "sgd"])),
    )


models, machines = st.sampled_from(MODELS), st.sampled_from(MACHINES)


def memory(model: ModelSpec, machine: Hardware, recipe: Recipe) -> MemoryEstimate:
    return estimate_memory(model, machine, recipe, TRL)[0]


@given(model=models, machine=machines, recipe=recipes(), more=st.integers(1, 8))
def test_more_sequences_or_tokens_never_need_less(model: ModelSpec, machine: Hardware, recipe: Recipe, more: int) -> None:
    # from one sequence to two a mask may appear, which another kernel handles: compare within one kind
    assume(recipe.packing or recipe.micro_batch > 1)
    now = memory(model, machine, recipe)
    for larger in (recipe.replace(micro_batch=recipe.micro_batch + more), recipe.replace(seq_len=recipe.seq_len + 64 * more)):
        then = memory(model, machine, larger)
        assert then.peak_allocated_bytes >= now.peak_allocated_bytes
        assert all(then.phases[phase] >= now.phases[phase] for phase in PHASES)


@given(model=models, machine=machines, recipe=recipes(methods=("lora", "dora")), more=st.integers(1, 64))
def test_a_larger_rank_never_needs_less(model: ModelSpec, machine: Hardware, recipe: Recipe, more: int) -> None:
    larger = memory(model, machine, recipe.replace(rank=recipe.rank + more))
    assert larger.peak_allocated_bytes >= memory(model, machine, recipe).peak_allocated_bytes  # equal where loading is the peak


@given(model=models, machine=machines, recipe=recipes(), more=st.integers(1, 8))
def test_more_layers_never_need_less(model: ModelSpec, machine: Hardware, recipe: Recipe, more: int) -> None:
    per_layer = model.total_params // model.num_layers
    deeper = dataclasses.replace(
        model, id=f"{model.id}+{more}", num_layers=model.num_layers + more, total_params=model.total_params + more * per_layer
    )
    assert memory(deeper, machine, recipe).peak_allocated_bytes > memory(model, machine, recipe).peak_allocated_bytes


@given(model=models, machine=machines, recipe=recipes())
def test_checkpointing_never_needs_more(model: ModelSpec, machine: Hardware, recipe: Recipe) -> None:
    """But for half a per cent: where gradients are larger than activations (few tokens, or all weights trained), the peak is at the end of
    backward, in the model's first layer. There a checkpoint saves nothing, and a recomputed layer holds its input and last operands too.
    """
    with_, without = (memory(model, machine, recipe.replace(gradient_checkpointing=on)) for on in (True, False))
    assert with_.peak_allocated_bytes <= 1.005 * without.peak_allocated_bytes


@given(model=models, machine=machines, recipe=recipes(methods=("lora",)))
def test_a_four_bit_base_never_weighs_more(model: ModelSpec, machine: Hardware, recipe: Recipe) -> None:
    plain = memory(model, machine, recipe.replace(quantization="none", double_quantization=False)).components
    for double in (False, True):
        quantised = memory(model, machine, recipe.replace(quantization="nf4", double_quantization=double)).components
        assert quantised.weights + quantised.quantization_constants < plain.weights


@given(model=models, machine=machines, recipe=recipes())
def test_phases_components_and_interval_agree(model: ModelSpec, machine: Hardware, recipe: Recipe) -> None:
    result = memory(model, machine, recipe)
    assert set(result.phases) == set(PHASES)
    assert result.phases[result.peak_phase] == max(result.phases.values()) == result.peak_allocated_bytes
    parts = dataclasses.asdict(result.components)
    context = parts.pop("context")
    assert all(part >= 0 for part in parts.values())
    assert sum(parts.values()) == result.peak_allocated_bytes == result.components.allocated_bytes
    assert result.peak_allocated_bytes <= result.peak_reserved_bytes
    assert result.device_used_bytes == result.peak_reserved_bytes + context
    assert result.low_bytes <= result.device_used_bytes <= result.high_bytes


@given(model=models, machine=machines, recipe=recipes())
def test_the_verdict_follows_the_numbers(model: ModelSpec, machine: Hardware, recipe: Recipe) -> None:
    result = memory(model, machine, recipe)
    if result.verdict == "fits":
        assert result.high_bytes <= result.available_bytes
    else:
        assert result.high_bytes > result.available_bytes
    if result.peak_allocated_bytes > result.available_bytes:
        assert result.verdict == "does_not_fit"
    assert result.fits == (result.verdict != "does_not_fit")


@given(model=models, machine=machines, recipe=recipes())
def test_every_moment_is_made_of_known_components(model: ModelSpec, machine: Hardware, recipe: Recipe) -> None:
    priced = price_memory(model, machine, recipe, TRL)
    for phase, size in priced.phases().items():
        assert phase in PHASES
        alive = priced.components(phase)
        assert sum(alive.values()) == size
        assert Components(**alive).allocated_bytes == sum(alive.values())
        assert min(alive.values()) >= 0


@given(recipe=recipes(methods=("lora",)))
def test_the_batch_that_occurred_is_what_is_priced(recipe: Recipe) -> None:
    model, machine = MODELS[0], MACHINES[1]
    same = batch_of(recipe, TRL)
    assert estimate_memory(model, machine, recipe, TRL, batch=same)[0] == memory(model, machine, recipe)
    shorter = Batch(same.sequences, max(1, same.seq_len // 2), same.masked)
    assert (
        estimate_memory(model, machine, recipe, TRL, batch=shorter)[0].peak_allocated_bytes
        <= memory(model, machine, recipe).peak_allocated_bytes
    )


# The keys of the estimate document: DESIGN.md's contract, which may grow but not shrink.
CONTRACT: dict[str, Any] = {
    "schema": str,
    "basis": str,
    "model": {"id": str, "parameters": int},
    "gpu": {"name": str, "memory_bytes": int},
    "stack": {"name": str, "versions": dict},
    "recipe": {field.name: object for field in dataclasses.fields(Recipe)},
    "memory": {
        "peak_allocated_bytes": int,
        "peak_reserved_bytes": int,
        "device_used_bytes": int,
        "low_bytes": int,
        "high_bytes": int,
        "fits": bool,
        "peak_phase": str,
        "phases": dict.fromkeys(PHASES, int),
        "components": {field.name: int for field in dataclasses.fields(Components)},
    },
    "throughput": {"tokens_per_second": float, "seconds_per_step": float, "low": float, "high": float, "bound_by": str},
    "trainable_parameters": int,
}


def check(document: Any, contract: Any, where: str = "") -> None:
    if not isinstance(contract, dict):
        assert isinstance(document, contract), where
        return
    for key, expected in contract.items():
        assert key in document, f"{where}.{key}"
        check(document[key], expected, f"{where}.{key}")


@settings(max_examples=40)
@given(model=models, machine=machines, recipe=recipes())
def test_the_json_document_keeps_its_contract(model: ModelSpec, machine: Hardware, recipe: Recipe) -> None:
    priced: Estimate | None = None
    try:
        priced = estimate(model, machine, recipe)
    except InputError:
        assume(False)
    assert priced is not None
    document = json.loads(json.dumps(priced.to_json(), allow_nan=False))
    check(document, CONTRACT)
    assert document["schema"] == "ftadvise.estimate/1"
    assert set(document["memory"]["phases"]) == set(PHASES)
    assert set(document["memory"]["components"]) == set(CONTRACT["memory"]["components"])
    assert Recipe.from_dict(document["recipe"]) == priced.recipe  # what can run: corrections are named in the notes


@pytest.mark.parametrize(
    ("gpu", "changes", "message"),
    [
        ("RTX 2080 Ti", {"compute_dtype": "bf16"}, "no bf16"),
        ("RTX 2080 Ti", {"compute_dtype": "fp16", "attention": "flash_attention_2"}, "FlashAttention-2"),
        ("RTX 4090", {"rank": 100_000}, "above the model's width"),
        ("RTX 4090", {"target_modules": ("nothing",)}, "no linear layer"),
    ],
)
def test_what_cannot_run_is_refused_with_a_way_out(gpu: str, changes: dict[str, Any], message: str) -> None:
    machine = Hardware(resolve_gpus(gpu), CPU, 64 * GIB, 48 * GIB, "named")
    with pytest.raises(InputError, match=message):
        estimate(MODELS[0], machine, Recipe(**changes))


def test_flash_attention_on_the_cpu_and_encoders_are_refused() -> None:
    with pytest.raises(InputError, match="CUDA"):
        estimate(MODELS[0], MACHINES[0], Recipe(attention="flash_attention_2"))
    with pytest.raises(InputError, match="encoder"):
        estimate(dataclasses.replace(MODELS[0], id="x", kind="encoder"), MACHINES[1], Recipe())
