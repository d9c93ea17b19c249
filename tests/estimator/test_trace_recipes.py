"""The trace of a tiny model: every method and quantisation, what it refuses, and that shortcuts change nothing."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.stack import stack_of
from ftadvise.estimator.trace import TraceResult, trace
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.hardware import Cpu, Hardware
from ftadvise.profiles.model_config import spec_from_config
from ftadvise.profiles.model_spec import ModelSpec
from ftadvise.profiles.resolve_gpu import resolve_gpus
from ftadvise.profiles.resolve_model import resolve_model

CPU = Cpu("any", 2, 2, supports_bf16=False, supports_amx=False)
A100 = Hardware(resolve_gpus("A100-80GB"), CPU, 16 << 30, 16 << 30, "named")
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "tie_word_embeddings": False,
}
RECIPE = Recipe(micro_batch=2, seq_len=64, gradient_accumulation=1, gradient_checkpointing=False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return dataclasses.replace(spec_from_config(CONFIG, source="tiny"), local_path=str(folder))


def traced(spec: ModelSpec, stack: str = "trl", **changes: Any) -> TraceResult:
    return trace(spec, A100, RECIPE.replace(**changes), stack_of(stack))


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize("method", ["lora", "dora", "adalora", "ia3", "prefix", "prompt", "adapter"])
def test_every_method_on_every_base_has_a_peak_that_its_components_explain(tiny: ModelSpec, method: str, quantization: str) -> None:
    result = traced(tiny, method=method, quantization=quantization)
    assert sum(result.components.values()) == result.peak_allocated_bytes
    assert max(size for phase, size in result.phases.items() if phase not in ("evaluation", "save")) == result.peak_allocated_bytes
    assert result.components["adapters"] > 0
    assert result.parameters - result.trainable_parameters == pytest.approx(tiny.total_params, rel=1e-4)  # AdaLoRA keeps rank counts
    assert ("quantization_constants" in result.components) == (quantization != "none")
    assert min(result.timeline.allocated()) >= 0


def test_full_fine_tuning_holds_weights_gradients_and_two_moments(tiny: ModelSpec) -> None:
    result = traced(tiny, method="full", compute_dtype="fp32")
    weights = 4 * tiny.total_params
    sizes = result.timeline.components_at(len(result.timeline) - 1)
    assert weights <= sizes["weights"] < 1.01 * weights  # and the rotary frequencies
    assert sizes["optimizer_state"] == 2 * weights
    assert result.trainable_parameters == tiny.total_params


def test_checkpointing_takes_less_and_eager_attention_more(tiny: ModelSpec) -> None:
    plain, checkpointed, eager = (
        traced(tiny, loss="full", seq_len=256, **changes).phases["forward"]
        for changes in ({}, {"gradient_checkpointing": True}, {"attention": "eager"})
    )
    assert checkpointed < plain < eager


def test_repeating_known_operations_changes_nothing(tiny: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    from ftadvise.estimator.trace.replay import Replay

    quick = traced(tiny, quantization="nf4", gradient_checkpointing=True)
    monkeypatch.setattr(Replay, "__call__", lambda self, func, args, kwargs: func(*args, **kwargs))
    slow = traced(tiny, quantization="nf4", gradient_checkpointing=True)
    assert quick.timeline.sizes == slow.timeline.sizes
    assert quick.timeline.operations == slow.timeline.operations


def test_k_bit_casts_make_all_or_only_the_norms_fp32(tiny: ModelSpec) -> None:
    plain = stack_of("transformers")
    sizes = {
        cast: trace(tiny, A100, RECIPE.replace(quantization="nf4", loss="full"), dataclasses.replace(plain, kbit_upcast=cast)).components[
            "weights"
        ]
        for cast in ("none", "norms", "all")
    }
    norms = 2 * 5 * CONFIG["hidden_size"]
    embeddings = 2 * 2 * CONFIG["vocab_size"] * CONFIG["hidden_size"]
    assert sizes["norms"] - sizes["none"] == norms
    assert sizes["all"] - sizes["norms"] == embeddings


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method": "adapter", "target_modules": ("q_proj",)}, "bottleneck"),
        ({"method": "prefix", "gradient_checkpointing": True}, "gradient checkpointing"),
        ({"sharding": "zero3"}, "zero3"),
        ({"offload": "all"}, "offload"),
        ({"target_modules": ("nothing",)}, "nothing"),
    ],
)
def test_what_cannot_be_traced_is_refused_by_name(tiny: ModelSpec, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        traced(tiny, **changes)


def test_an_architecture_that_transformers_does_not_know_is_refused() -> None:
    with pytest.raises(InputError, match="does not know the architecture 'qwen'"):
        trace(resolve_model("Qwen/Qwen-7B"), A100, RECIPE, stack_of("trl"))


@pytest.mark.parametrize(
    "name",
    [
        "Qwen/Qwen3-8B",
        "google/gemma-2-2b",
        "EleutherAI/pythia-1b",
        "openai-community/gpt2",
        "tiiuae/falcon-7b",
        "mistralai/Mixtral-8x7B-v0.1",
    ],
)
def test_a_card_is_enough_for_a_model_with_its_parameter_count(name: str) -> None:
    from ftadvise.estimator.trace.model_config import config_of, skeleton

    spec = resolve_model(name)
    built = sum(parameter.numel() for parameter in skeleton(config_of(spec)).parameters())
    assert built == pytest.approx(spec.total_params, rel=0.001)


def test_importing_the_trace_does_not_import_torch() -> None:
    code = "import sys, ftadvise.estimator.trace; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path.cwd()).returncode == 0
