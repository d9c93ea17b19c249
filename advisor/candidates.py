"""Candidates: the recipes that the planner prices, for each approach."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ftadvise.advisor.plan_types import Approach
from ftadvise.advisor.rule_engine import Settings
from ftadvise.advisor.rule_schema import APPROACHES, DERIVED_SETTINGS
from ftadvise.advisor.texts import Text, message
from ftadvise.estimator.lengths import LengthStats
from ftadvise.estimator.recipe import Dtype, Quantization, Recipe
from ftadvise.profiles.hardware import GIB, Hardware
from ftadvise.profiles.model_spec import ModelSpec
from ftadvise.profiles.yaml_store import load_yaml

QUANTIZATION: dict[Approach, Quantization] = {"lora": "none", "lora_int8": "int8", "qlora": "nf4", "full": "none"}


@lru_cache(maxsize=1)
def defaults() -> dict[str, Any]:
    """The planner's own choices from `defaults.yaml`."""
    values: dict[str, Any] = load_yaml(Path(__file__).parent / "defaults.yaml")
    return values


def compute_dtype(hardware: Hardware) -> Dtype:
    """bf16 where the hardware has it; else fp16 on a GPU, and fp32 on a CPU (which would emulate bf16 several times slower)."""
    if hardware.gpu:
        return "bf16" if hardware.gpu.supports_bf16 else "fp16"
    return "bf16" if hardware.cpu.supports_bf16 or hardware.cpu.supports_amx else "fp32"


def adapter_dtype(quantization: Quantization, compute: Dtype) -> Dtype:
    """What PEFT and TRL make of the adapters.

    PEFT keeps adapters of a 16-bit base in fp32 (`autocast_adapter_dtype`); TRL's SFTTrainer casts those of a quantised base to bf16. With
    fp16 compute they stay fp32, because the loss scaler cannot unscale bf16 gradients.
    """
    return "bf16" if quantization != "none" and compute == "bf16" else "fp32"


def possible_approaches(hardware: Hardware, fixed: Mapping[str, Any]) -> tuple[tuple[Approach, ...], dict[Approach, Text]]:
    """The approaches that agree with the user's flags, and all those that this hardware cannot run, with the reason."""
    method, quantization = fixed.get("method"), fixed.get("quantization")
    wanted = set(APPROACHES)
    if method is not None:
        wanted &= {"full"} if method == "full" else {"lora", "lora_int8", "qlora"}
    if quantization is not None and method != "full":  # a quantised base with full fine-tuning: Recipe says why not
        wanted &= (
            {"qlora"} if quantization in ("nf4", "fp4") else {approach for approach in APPROACHES if QUANTIZATION[approach] == quantization}
        )
    elif fixed.get("double_quantization") and method != "full":
        wanted &= {"qlora"}
    impossible: dict[Approach, Text] = {}
    if hardware.gpu is None:
        impossible["lora_int8"] = message("int8_needs_gpu")
    elif not hardware.gpu.supports_bitsandbytes:
        why = message("no_bitsandbytes", gpu=hardware.gpu.name)
        impossible |= {"qlora": why, "lora_int8": why}
    return tuple(approach for approach in APPROACHES if approach in wanted), impossible


def sequence_lengths(model: ModelSpec, hardware: Hardware, fixed: Mapping[str, Any], data: LengthStats | None = None) -> tuple[int, ...]:
    """The sequence lengths to try, in order: the user's alone, or the default and its halves down to the shortest.

    Where the data's longest example is shorter than the default, its length is the first.
    """
    if "seq_len" in fixed:
        return (fixed["seq_len"],)
    lengths = defaults()["seq_len"]
    gpu = hardware.gpu
    length: int = lengths["cpu"] if gpu is None else lengths["default"]
    if gpu and (gpu.memory_bytes if gpu.free_bytes is None else gpu.free_bytes) >= lengths["from_available_gib"] * GIB:
        length = lengths["large"]
    length = min(length, model.max_position or length, data.covering_seq_len if data else length)
    halves = itertools.takewhile(lambda tokens: tokens >= lengths["shortest"], (length >> n for n in range(1, 64)))
    return (length, *halves)


def base_settings(approach: Approach, hardware: Hardware, seq_len: int, fixed: Mapping[str, Any]) -> Settings:
    """The settings of an approach before the rules have their say."""
    quantization: Quantization = fixed.get("quantization", QUANTIZATION[approach])
    compute: Dtype = fixed.get("compute_dtype", compute_dtype(hardware))
    values: dict[str, Any] = {
        "method": "full" if approach == "full" else "lora",
        "quantization": quantization,
        "double_quantization": approach == "qlora",
        "compute_dtype": compute,
        "adapter_dtype": adapter_dtype(quantization, compute),
        "rank": Recipe().rank,
        "seq_len": seq_len,
        "sharding": "ddp" if len(hardware.gpus) > 1 else "none",
        "alpha_per_rank": 2,
        "sequences_per_step": defaults()["sequences_per_step"],
    }
    if approach == "full":
        values["learning_rate"] = defaults()["full_learning_rate"]
    return Settings(values | dict(fixed), locked=frozenset(fixed))


def leanest(settings: Settings, hardware: Hardware, fixed: Mapping[str, Any]) -> Recipe:
    """The recipe with the least memory that these settings allow: micro batch 1, gradient checkpointing on."""
    return _recipe(settings, fixed, fixed.get("micro_batch", 1), fixed.get("gradient_checkpointing", True), len(hardware.gpus))


def candidates(settings: Settings, hardware: Hardware, fixed: Mapping[str, Any]) -> tuple[tuple[Recipe, ...], ...]:
    """All recipes to price for one approach, at about `sequences_per_step` sequences a step.

    One ladder with gradient checkpointing and one without; each climbs through the micro batches, so its memory only grows.
    """
    micro_batches = [fixed["micro_batch"]] if "micro_batch" in fixed else defaults()["micro_batches"]
    checkpointing = [fixed["gradient_checkpointing"]] if "gradient_checkpointing" in fixed else [True, False]
    ladders = [[_recipe(settings, fixed, size, on, len(hardware.gpus)) for size in micro_batches] for on in checkpointing]
    return tuple(tuple([each for each in ladder if _accumulation_allowed(each, settings)] or ladder) for ladder in ladders)


def _accumulation_allowed(recipe: Recipe, settings: Settings) -> bool:
    return bool(settings.inside("gradient_accumulation", recipe.gradient_accumulation) == recipe.gradient_accumulation)


def _recipe(settings: Settings, fixed: Mapping[str, Any], micro_batch: int, checkpointing: bool, gpu_count: int) -> Recipe:
    values = {name: value for name, value in settings.values.items() if name not in DERIVED_SETTINGS}
    values["micro_batch"], values["gradient_checkpointing"] = micro_batch, checkpointing
    if _positive(values["rank"]):
        values.setdefault("alpha", max(1, round(settings.values["alpha_per_rank"] * values["rank"])))
    if _positive(micro_batch):
        sequences = settings.values["sequences_per_step"]
        values.setdefault("gradient_accumulation", max(1, round(sequences / (micro_batch * max(1, gpu_count)))))
    return Recipe(**values | dict(fixed))


def _positive(value: Any) -> bool:
    """Whether arithmetic is safe; what is not a positive whole number is refused by Recipe with a better message."""
    return isinstance(value, int) and value > 0
