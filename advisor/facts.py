"""Facts: what the rules' conditions may talk about. Every fact has a value, so a condition never meets None."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args, get_type_hints

from ftadvise.advisor.plan_types import Approach, PlanRequest
from ftadvise.estimator.estimate_types import Estimate
from ftadvise.profiles.hardware import GIB, Hardware
from ftadvise.profiles.model_spec import ModelSpec

DOES_NOT_FIT = -99.0
"""The headroom of an approach that has no estimate at all (it cannot run on this machine)."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The situation, in plain values.

    `gpu_memory_gib` is one card's total memory and `available_gib` what training may use (free GPU memory, or free RAM without a
    GPU). `X_headroom` is the share of `available_gib` that the leanest recipe of an approach leaves free at the upper end of its
    estimate (negative: it does not fit); `X_fits` is the estimator's verdict on that recipe.
    `approach` and `rank` describe the recipe under consideration: rules that name them are evaluated once for each approach.
    """

    has_gpu: bool
    gpu_count: int
    gpu_name: str
    gpu_form: Literal["consumer", "datacenter", "embedded", "laptop", "soc", "workstation", "unknown"]
    gpu_tier: Literal["high_end", "middle", "mid_low", "none"]
    gpu_memory_gib: float
    available_gib: float
    supports_bf16: bool
    compute_capability: float
    model_parameters_billion: float
    model_family: str
    task: Literal["research", "prototype", "chat", "multi_tenant", "edge", "unspecified"]
    team: Literal["beginner", "experienced", "unspecified"]
    priority: Literal["accuracy", "cost", "speed", "memory", "unspecified"]
    lora_fits: bool
    lora_int8_fits: bool
    qlora_fits: bool
    full_fits: bool
    lora_headroom: float
    lora_int8_headroom: float
    qlora_headroom: float
    full_headroom: float
    approach: Literal["lora", "lora_int8", "qlora", "full", "undecided"] = "undecided"
    rank: int = 0


FactType = Literal["bool", "number", "text"]
STAGE_OF_FACT = {"approach": 1, "rank": 2}
"""When a fact is known: 0 before an approach is considered (all others), 1 for an approach, 2 once its rank is chosen."""


@lru_cache(maxsize=1)
def fact_types() -> dict[str, tuple[FactType, tuple[str, ...]]]:
    """Every fact's type and, for a text with a closed set of values, those values."""
    types: dict[str, tuple[FactType, tuple[str, ...]]] = {}
    for name, hint in get_type_hints(Facts).items():
        if get_args(hint):
            types[name] = ("text", get_args(hint))
        else:
            types[name] = ("bool" if hint is bool else "text" if hint is str else "number", ())
    return types


def facts_from(
    model: ModelSpec,
    hardware: Hardware,
    request: PlanRequest,
    estimates: Mapping[Approach, Estimate],
    tiers: Mapping[str, float],
) -> Facts:
    """The facts of one planning situation.

    Args:
        estimates: the leanest recipe of each approach, priced; an approach that cannot run here at all is left out.
        tiers: `mid_low_at_most_gib` and `high_end_at_least_gib`, the memory that bounds the GPU tiers.
    """
    gpu = hardware.gpu
    memory_gib = gpu.memory_bytes / GIB if gpu else 0.0
    major, minor = (gpu.compute_capability or (0, 0)) if gpu else (0, 0)
    available = next(iter(estimates.values())).memory.available_bytes if estimates else 0
    fitting: dict[str, Any] = {}
    for approach in get_args(Approach):
        estimate = estimates.get(approach)
        fitting[f"{approach}_fits"] = estimate is not None and estimate.memory.fits
        fitting[f"{approach}_headroom"] = DOES_NOT_FIT if estimate is None else headroom(estimate)
    form: Any = gpu.form if gpu and gpu.form in fact_types()["gpu_form"][1] else "unknown"
    tier: Any = "none"
    if gpu:
        tier = (
            "mid_low"
            if memory_gib <= tiers["mid_low_at_most_gib"]
            else "high_end"
            if memory_gib >= tiers["high_end_at_least_gib"]
            else "middle"
        )
    return Facts(
        has_gpu=gpu is not None,
        gpu_count=len(hardware.gpus),
        gpu_name=gpu.name if gpu else "",
        gpu_form=form,
        gpu_tier=tier,
        gpu_memory_gib=memory_gib,
        available_gib=available / GIB,
        supports_bf16=gpu.supports_bf16 if gpu else hardware.cpu.supports_bf16,
        compute_capability=major + minor / 10,
        model_parameters_billion=model.total_params / 1e9,
        model_family=model.family,
        task=request.task or "unspecified",
        team=request.team or "unspecified",
        priority=request.priority or "unspecified",
        **fitting,
    )


def headroom(estimate: Estimate) -> float:
    """The share of the available memory that is left at the upper end of the estimate; negative when it does not fit."""
    memory = estimate.memory
    return max(DOES_NOT_FIT, 1 - memory.high_bytes / memory.available_bytes) if memory.available_bytes > 0 else DOES_NOT_FIT
