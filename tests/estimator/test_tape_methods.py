"""The analytic model of every method against real training steps metered on a CPU (benchmarks/results/cpu_matrix.csv)."""

from __future__ import annotations

import csv
import functools
import json
from pathlib import Path
from typing import Any

import pytest

from ftadvise.estimator.activations import Batch
from ftadvise.estimator.memory import Priced, price_memory
from ftadvise.estimator.peft_settings import VIRTUAL_TOKENS, adapter_rank, check_method
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.stack import stack_of
from ftadvise.estimator.tape.build import Setting, context
from ftadvise.estimator.tape.decoders import decoder_of
from ftadvise.estimator.tape.profile import QUANTITIES, profile_of, quantities
from ftadvise.estimator.tape.step import training_step
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.hardware import Cpu, Hardware
from ftadvise.profiles.model_config import spec_from_config

ROWS = Path(__file__).parents[2] / "benchmarks" / "results" / "cpu_matrix.csv"
CPU = Hardware((), Cpu("any", 2, 2, supports_bf16=False, supports_amx=False), 16 << 30, 16 << 30, "named")
METHODS = ("lora", "dora", "adalora", "ia3", "prefix", "prompt", "adapter", "full")


@functools.cache
def rows(method: str) -> tuple[dict[str, Any], ...]:
    """Metered steps of a method on tiny Llamas: every quantisation, fp32 and bf16, checkpointed or not, three stacks."""
    with ROWS.open(newline="", encoding="utf-8") as file:
        found = [row for row in csv.DictReader(file) if row["status"] == "ok" and row["method"] == method]
    return tuple(row for row in found if row["architecture"] == "llama")


_PRICED: dict[str, Priced] = {}


def priced(row: dict[str, Any]) -> Priced:
    if row["case"] not in _PRICED:
        recipe = Recipe.from_dict(json.loads(row["recipe"]))
        spec = spec_from_config(json.loads(row["config"]), source=row["case"])
        batch = Batch(int(row["sequences"]), int(row["padded_length"]), masked=row["padded"] == "True" or recipe.packing)
        _PRICED[row["case"]] = price_memory(spec, CPU, recipe, stack_of(row["stack"]), batch=batch)
    return _PRICED[row["case"]]


def held_bytes(row: dict[str, Any]) -> int:
    """What was there throughout the metered step: weights, adapters, and the optimizer's state from its first step on."""
    components = json.loads(row["peak_components"])
    accumulated = components.get("gradients", 0) if json.loads(row["recipe"])["gradient_accumulation"] > 1 else 0
    return int(json.loads(row["moments"])["load/activations"]) + int(components.get("optimizer_state", 0)) + accumulated


def off(predicted: int, measured: int) -> float:
    return abs(predicted / measured - 1)


@pytest.mark.parametrize("method", METHODS)
def test_forward_and_backward_peaks_are_the_metered_ones(method: str) -> None:
    assert len(rows(method)) >= 12
    for row in rows(method):
        found = priced(row)
        peaks = found.profile.training.phase_peaks(found.values)
        for phase in ("forward", "backward"):
            error = off(peaks[phase][0] + held_bytes(row), int(row[f"{phase}_bytes"]))
            assert error < 0.004, f"{row['case']}, {phase}: off by {100 * error:.2f} %"


@pytest.mark.parametrize("method", METHODS)
def test_activations_of_plain_transformers_are_the_metered_ones(method: str) -> None:
    """Where no loss kernel covers them: bytes of activations, loss and gradients alone, without weights and state."""
    plain = [row for row in rows(method) if row["stack"] != "trl"]
    assert plain
    for row in plain:
        found = priced(row)
        peaks = found.profile.training.phase_peaks(found.values)
        error = off(peaks["backward"][0], int(row["backward_bytes"]) - held_bytes(row))
        assert error < 0.01, f"{row['case']}: off by {100 * error:.2f} %"


@pytest.mark.parametrize("method", METHODS)
def test_evaluation_is_the_metered_one(method: str) -> None:
    for row in rows(method):
        if json.loads(row["recipe"])["gradient_accumulation"] > 1:
            continue  # the metered pass ran when the gradients had gone
        found = priced(row)
        peak = found.profile.evaluation.phase_peaks(found.values)["evaluation"][0]
        # AdaLoRA's averages are dropped when the pruning is over, which in these runs is before the evaluation
        dropped = 2 * json.loads(row["peak_components"])["adapters"] if method == "adalora" else 0
        error = off(peak + held_bytes(row) - dropped, int(row["evaluation_bytes"]))
        assert error < 0.011, f"{row['case']}: off by {100 * error:.2f} %"


@pytest.mark.parametrize("method", METHODS)
def test_as_many_parameters_are_trained_as_peft_trains(method: str) -> None:
    for row in rows(method):
        assert priced(row).static.trainable_parameters == int(row["trainable_parameters"]), row["case"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("like_cuda", [False, True])
def test_equal_layers_recorded_once_give_the_peaks_of_all_of_them(
    method: Any, quantization: Any, checkpointing: bool, like_cuda: bool
) -> None:
    if method == "full" and quantization != "none":
        return
    config = json.loads(rows("lora")[0]["config"]) | {"num_hidden_layers": 9}
    spec = spec_from_config(config, source="test")
    recipe = Recipe(method=method, quantization=quantization, gradient_checkpointing=checkpointing, gradient_accumulation=1, loss="full")
    stack = stack_of("transformers")
    kernel = stack.loss_kernel("full")
    values = quantities(
        sequences=2,
        seq_len=64,
        rank=adapter_rank(recipe),
        chunk_tokens=lambda tokens: tokens,
        prompt_tokens=VIRTUAL_TOKENS,
        prefix_tokens=VIRTUAL_TOKENS,
    )
    peaks = []
    for compress in (True, False):
        ctx = context(spec, recipe, stack, Setting(kernel="flash" if like_cuda else "cpu", masked=False, single=False, like_cuda=like_cuda))
        training_step(ctx, decoder_of(spec), kernel, keeps_logits=False, compress=compress)
        peaks.append({phase: size for phase, (size, _) in profile_of(ctx.t).phase_peaks(values).items() if phase != "optimizer_step"})
    assert peaks[0] == peaks[1]


def _priced(layers: int = 3, **changes: Any) -> Priced:
    config = json.loads(rows("lora")[0]["config"]) | {"num_hidden_layers": layers}
    recipe = Recipe(gradient_accumulation=1, gradient_checkpointing=False, loss="full").replace(**changes)
    spec = spec_from_config(config, source="test")
    return price_memory(spec, CPU, recipe, stack_of("transformers"), batch=Batch(2, 128, masked=False))


def _peak(phase: str = "backward", **changes: Any) -> int:
    found = _priced(**changes)
    return found.profile.training.phase_peaks(found.values)[phase][0]


def test_int8_keeps_every_input_even_under_checkpointing() -> None:
    """bitsandbytes puts them on the function's context, which PyTorch's checkpoints do not see."""
    grown = {}
    for quantization in ("nf4", "int8"):
        shallow, deep = (
            _peak("forward", layers=layers, quantization=quantization, adapter_dtype="bf16", gradient_checkpointing=True)
            for layers in (4, 5)
        )
        grown[quantization] = deep - shallow
    tokens, hidden, inner = 2 * 128, 128, 352
    assert grown["nf4"] == 2 * tokens * hidden, "a checkpointed layer keeps its input"
    read = 3 * hidden + inner  # by q, k and v; by o; by gate and up; by down
    assert grown["int8"] == grown["nf4"] + 2 * tokens * read, "and an int8 one what its linear layers read"


def test_methods_differ_as_their_formulas_say() -> None:
    assert _peak(method="dora") > _peak(method="lora"), "the weight is expanded, and the base product done twice"
    assert _peak(method="dora", dropout=0.0) < _peak(method="dora"), "without dropout the base product is reused"
    assert _peak(method="adalora", rank=16) > _peak(method="adalora", rank=8)
    assert _peak(method="ia3", rank=16) == _peak(method="ia3", rank=8), "IA3 has no rank"
    assert _peak(method="lora") > _peak(method="prompt"), "prompts leave the layers alone"
    assert _peak(method="adapter", rank=64) > _peak(method="adapter", rank=8)


def test_a_bottleneck_adapter_is_two_projections_behind_each_block() -> None:
    hidden, layers, rank = 128, 3, 16
    assert _priced(method="adapter", rank=rank).static.trainable_parameters == layers * 2 * (2 * hidden * rank + rank + hidden)


def test_virtual_tokens_lengthen_what_they_should() -> None:
    prompt, prefix, lora = (dict(zip(QUANTITIES, _priced(method=method).values, strict=True)) for method in ("prompt", "prefix", "lora"))
    assert prompt["tokens"] == prompt["key_tokens"] == 2 * (128 + VIRTUAL_TOKENS)
    assert prompt["data_tokens"] == lora["tokens"] == lora["key_tokens"] == 2 * 128
    assert (prefix["tokens"], prefix["key_tokens"]) == (2 * 128, 2 * (128 + VIRTUAL_TOKENS))
    assert prefix["key_scores"] == 2 * 128 * (128 + VIRTUAL_TOKENS)


def test_prefix_tuning_with_checkpointing_is_refused() -> None:
    with pytest.raises(InputError, match="gradient checkpointing") as caught:
        check_method(Recipe(method="prefix", gradient_checkpointing=True))
    assert caught.value.hint == "use --no-gradient-checkpointing"
    check_method(Recipe(method="prefix", gradient_checkpointing=False))
