"""Candidates: the recipes that the planner prices, for each approach."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ftadvise.advisor.plan_types import Approach
from ftadvise.advisor.rule_engine import Settings
from ftadvise.advisor.rule_schema import APPROACHES, DERIVED_SETTINGS
from ftadvise.advisor.texts import Text, message
from ftadvise.estimator.lengths import LengthStats
from ftadvise.estimator.recipe import Dtype, Offload, Quantization, Recipe, Sharding
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


def sequence_lengths(
    model: ModelSpec, hardware: Hardware, fixed: Mapping[str, Any], data: LengthStats | None = None, shortest: int | None = None
) -> tuple[int, ...]:
    """The sequence lengths to try, in order: the user's alone, or the default and its halves down to `shortest` (--min-seq-len).

    Where the data's longest example is shorter than the default, its length is the first.
    """
    if "seq_len" in fixed:
        return (fixed["seq_len"],)
    lengths = defaults()["seq_len"]
    gpu = hardware.gpu
    length: int = lengths["cpu"] if gpu is None else lengths["default"]
    if gpu and (gpu.memory_bytes if gpu.free_bytes is None else gpu.free_bytes) >= lengths["from_available_gib"] * GIB:
        length = lengths["large"]
    length = max(min(length, model.max_position or length, data.covering_seq_len if data else length), shortest or 0)
    least = shortest or lengths["shortest"]
    halves = list(itertools.takewhile(lambda tokens: tokens >= least, (length >> n for n in range(1, 64))))
    last = [shortest] if shortest and shortest < min([length, *halves]) else []
    return (length, *halves, *last)


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
        "optimizer": Recipe().optimizer,
        "alpha_per_rank": 2,
        "sequences_per_step": defaults()["sequences_per_step"],
    }
    if approach == "full":
        values["learning_rate"] = defaults()["full_learning_rate"]
    return Settings(values | dict(fixed), locked=frozenset(fixed))


class Layout(NamedTuple):
    """How several GPUs share the work, and what lives in host memory."""

    sharding: Sharding
    offload: Offload = "none"


def layouts(settings: Settings, hardware: Hardware, *, offload: bool = False) -> tuple[Layout, ...]:
    """The layouts to try, the simplest first, which is also the fastest; with `offload` those that use host memory instead.

    ZeRO-2 divides gradients and optimizer state, which only full fine-tuning has enough of. ZeRO-3 stands for FSDP too: both divide the
    same tensors at the same price in time, and the documents name DeepSpeed; FSDP is taken when a flag or a rule names it.
    """
    values = settings.values
    named = "sharding" in settings.locked or "sharding" in settings.claims
    if named or "offload" in settings.locked or len(hardware.gpus) < 2:
        if offload:
            return ()
        kept: Offload = values.get("offload", "none")
        if named or kept == "none":
            return (Layout(values["sharding"], kept),)
        return tuple(Layout(sharding, kept) for sharding in _OFFLOADS[kept])
    full, divisible = values["method"] == "full", values["quantization"] != "int8"
    if offload:
        with_optimizer: tuple[Layout, ...] = (Layout("zero2", "optimizer"), Layout("zero3", "optimizer")) if full else ()
        return with_optimizer + ((Layout("zero3", "all"),) if divisible else ())
    return (Layout("ddp"), *([Layout("zero2")] if full else []), *([Layout("zero3")] if divisible else []))


_OFFLOADS: dict[Offload, tuple[Sharding, ...]] = {"optimizer": ("zero2", "zero3"), "parameters": ("zero3",), "all": ("zero3",)}


def concessions(settings: Settings, hardware: Hardware) -> tuple[dict[str, Any], ...]:
    """What is given up so that an approach fits, one step after the other; the first step gives up nothing.

    A paged 8-bit optimizer, then a low rank, then both; nothing that a flag or a rule has fixed.
    """
    values = settings.values
    steps: list[dict[str, Any]] = [{}]
    fixed = settings.locked | set(settings.claims)
    paged = hardware.gpu is not None and hardware.gpu.supports_bitsandbytes
    if paged and "optimizer" not in fixed and values["optimizer"] in ("adamw_torch", "adamw_torch_fused"):
        steps.append({"optimizer": "paged_adamw_8bit"})
    low = defaults()["low_rank"]
    if values["method"] != "full" and "rank" not in settings.locked and _positive(values["rank"]) and values["rank"] > low:
        steps += [{"rank": low}, *({**step, "rank": low} for step in steps[1:])]
    return tuple(steps)


def leanest(settings: Settings, hardware: Hardware, *, layout: Layout | None = None, changes: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe with the least memory that these settings and a layout allow: micro batch 1, gradient checkpointing on."""
    fixed = _fixed(settings)
    size, on = fixed.get("micro_batch", 1), fixed.get("gradient_checkpointing", True)
    return _recipe(settings, len(hardware.gpus), layout, changes or {}, size, on)


def candidates(
    settings: Settings, hardware: Hardware, *, layout: Layout | None = None, changes: Mapping[str, Any] | None = None
) -> tuple[tuple[Recipe, ...], ...]:
    """All recipes to price for one approach and layout, at about `sequences_per_step` sequences a step over all GPUs.

    One ladder without gradient checkpointing and one with; each climbs through the micro batches, so its memory only grows.
    """
    fixed, gpus = _fixed(settings), max(1, len(hardware.gpus))
    sizes = [fixed["micro_batch"]] if "micro_batch" in fixed else list(defaults()["micro_batches"])
    if "micro_batch" not in fixed and "gradient_accumulation" not in fixed:
        sizes = [size for size in sizes if size * gpus <= settings.values["sequences_per_step"]] or sizes[:1]
    checkpointing = [fixed["gradient_checkpointing"]] if "gradient_checkpointing" in fixed else [False, True]
    ladders = [[_recipe(settings, gpus, layout, changes or {}, size, on) for size in sizes] for on in checkpointing]
    return tuple(tuple([each for each in ladder if _accumulation_allowed(each, settings)] or ladder) for ladder in ladders)


def _accumulation_allowed(recipe: Recipe, settings: Settings) -> bool:
    return bool(settings.inside("gradient_accumulation", recipe.gradient_accumulation) == recipe.gradient_accumulation)


def _fixed(settings: Settings) -> dict[str, Any]:
    """What no search may change: the user's flags, and what rules set."""
    return {name: settings.values[name] for name in settings.locked | set(settings.claims)}


def _recipe(
    settings: Settings, gpu_count: int, layout: Layout | None, changes: Mapping[str, Any], micro_batch: int, checkpointing: bool
) -> Recipe:
    values = {name: value for name, value in settings.values.items() if name not in DERIVED_SETTINGS} | dict(changes)
    values["micro_batch"], values["gradient_checkpointing"] = micro_batch, checkpointing
    if layout is not None:
        values["sharding"], values["offload"] = layout
    if _positive(values["rank"]):
        values.setdefault("alpha", max(1, round(settings.values["alpha_per_rank"] * values["rank"])))
    if _positive(micro_batch):
        sequences = settings.values["sequences_per_step"]
        values.setdefault("gradient_accumulation", max(1, round(sequences / (micro_batch * max(1, gpu_count)))))
    values |= {name: settings.values[name] for name in settings.locked}
    try:
        return _made(tuple(values.items()))
    except TypeError:  # a flag's value that cannot be hashed; Recipe says what is wrong with it
        return Recipe(**values)


@lru_cache(maxsize=4096)
def _made(values: tuple[tuple[str, Any], ...]) -> Recipe:
    """Checking its fields is most of what making a recipe takes."""
    return Recipe(**dict(values))


def _positive(value: Any) -> bool:
    """Whether a size can be computed with; Recipe says what is wrong with any other."""
    return isinstance(value, int) and value > 0
