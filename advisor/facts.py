"""Facts: what the rules' conditions may talk about. Every fact has a value, so a condition never meets None."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from ftadvise.advisor.plan_types import Approach, PlanRequest
from ftadvise.estimator.estimate_types import Estimate
from ftadvise.estimator.recipe import Attention, Loss, Method, Optimizer, Sharding
from ftadvise.profiles.hardware import GIB, Hardware
from ftadvise.profiles.model_spec import ModelSpec

DOES_NOT_FIT = -99.0
"""The headroom of an approach that has no estimate at all (it cannot run on this machine)."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The situation, in plain values. The annotation of each is its documentation, which docs/rules.md shows.

    Those with a default are known only later than the others, see `STAGE_OF_FACT`.
    """

    has_gpu: Annotated[bool, "training has a GPU"]
    gpu_count: Annotated[int, "how many GPUs"]
    gpu_name: Annotated[str, 'name of the first GPU, such as "A100 SXM4 80GB"; empty without one']
    gpu_form: Annotated[Literal["consumer", "datacenter", "embedded", "laptop", "soc", "workstation", "unknown"], "what kind of card it is"]
    gpu_tier: Annotated[
        Literal["high_end", "middle", "mid_low", "none"],
        "by memory: `mid_low` up to 12.5 GiB, `high_end` from 22 GiB, `none` without a GPU",
    ]
    gpu_memory_gib: Annotated[float, "memory of one card"]
    available_gib: Annotated[float, "what training may use: free GPU memory, or free RAM without a GPU"]
    supports_bf16: Annotated[bool, "the device multiplies bf16 natively (GPUs from Ampere on)"]
    compute_capability: Annotated[float, "of the GPU, such as 8.6; 0 where not known or not NVIDIA's"]
    supports_flash_attention_2: Annotated[bool, "the flash-attn kernels run on the GPU (compute capability 8.0 and more)"]
    model_parameters_billion: Annotated[float, "all parameters of the model"]
    model_family: Annotated[str, "family of the model's card, such as llama3; `ftadvise models` lists them"]
    vocab_size: Annotated[int, "entries of the vocabulary, which is the width of the logits"]
    is_moe: Annotated[bool, "a mixture of experts"]
    experts_fused: Annotated[bool, "its experts are fused 3-D parameters, which bitsandbytes does not quantise"]
    training_examples: Annotated[int, "examples in the training data; 0 where not known"]
    task: Annotated[Literal["research", "prototype", "chat", "multi_tenant", "edge", "unspecified"], "--task"]
    team: Annotated[Literal["beginner", "experienced", "unspecified"], "--team"]
    priority: Annotated[Literal["accuracy", "cost", "speed", "memory", "unspecified"], "--priority"]
    lora_fits: Annotated[bool, "the leanest LoRA recipe fits, by the upper end of its estimate"]
    lora_int8_fits: Annotated[bool, "the same for LoRA on an 8-bit base"]
    qlora_fits: Annotated[bool, "the same for QLoRA"]
    full_fits: Annotated[bool, "the same for full fine-tuning"]
    lora_headroom: Annotated[float, "share of `available_gib` that the leanest LoRA recipe leaves free; negative: it does not fit"]
    lora_int8_headroom: Annotated[float, "the same for LoRA on an 8-bit base"]
    qlora_headroom: Annotated[float, "the same for QLoRA"]
    full_headroom: Annotated[float, "the same for full fine-tuning"]
    qlora_saves: Annotated[float, "share of `available_gib` that the leanest QLoRA recipe needs less than the leanest LoRA one"]
    approach: Annotated[Literal["lora", "lora_int8", "qlora", "full", "undecided"], "the approach under consideration"] = "undecided"
    method: Annotated[Method, "its method: `full`, else the one that --method names, else `lora`"] = "lora"
    rank: Annotated[int, "its rank"] = 0
    micro_batch: Annotated[int, "sequences per GPU and forward pass"] = 1
    gradient_accumulation: Annotated[int, "micro batches per optimizer step"] = 1
    seq_len: Annotated[int, "tokens per sequence, at most"] = 0
    gradient_checkpointing: Annotated[bool, "activations are recomputed in backward"] = False
    packing: Annotated[bool, "short examples share a sequence"] = False
    attention: Annotated[Attention, "attention implementation"] = "sdpa"
    loss: Annotated[Loss, "loss implementation"] = "fused"
    optimizer: Annotated[Optimizer, "optimizer"] = "adamw_torch"
    sharding: Annotated[Sharding, "how several GPUs share the work"] = "none"
    target_modules: Annotated[str, "what is adapted: `all-linear`, or names joined by commas"] = "all-linear"
    fit: Annotated[Literal["fits", "tight", "does_not_fit"], "the estimator's verdict on the recipe"] = "fits"
    launch_share: Annotated[float, "share of a step in which the GPU waits for the next launch"] = 0.0
    dequantization_share: Annotated[float, "share of a step that expands quantised weights"] = 0.0
    loss_share: Annotated[float, "share of a step in output head and loss"] = 0.0
    recomputed_share: Annotated[float, "share of a forward and backward pass that is computed twice"] = 0.0
    padding_share: Annotated[float, "share of padding among the tokens; 0 without --data"] = 0.0


FactType = Literal["bool", "number", "text"]
STAGE_NAMES = ("situation", "approach", "rank", "recipe")
"""When a fact is known: always, then for each approach under consideration, once its rank is chosen, once its best recipe is."""
_APPROACH_FACTS, _RANK_FACTS = ("approach", "method"), ("rank",)
STAGE_OF_FACT: dict[str, int] = {
    field.name: 1 if field.name in _APPROACH_FACTS else 2 if field.name in _RANK_FACTS else 3
    for field in dataclasses.fields(Facts)
    if field.default is not dataclasses.MISSING
}
"""Index into `STAGE_NAMES`; a fact that is not here belongs to the situation."""


class FactKind(NamedTuple):
    """A fact's type, its values where only some are possible, and what it means."""

    type: FactType
    values: tuple[str, ...]
    meaning: str


@lru_cache(maxsize=1)
def fact_kinds() -> dict[str, FactKind]:
    """Every fact, in the order of `Facts`."""
    kinds = {}
    for name, hint in get_type_hints(Facts, include_extras=True).items():
        plain, meaning = get_args(hint)
        if get_origin(plain) is Literal:
            kinds[name] = FactKind("text", get_args(plain), meaning)
        else:
            kinds[name] = FactKind("bool" if plain is bool else "text" if plain is str else "number", (), meaning)
    return kinds


@lru_cache(maxsize=1)
def fact_types() -> dict[str, tuple[FactType, tuple[str, ...]]]:
    """Every fact's type and, for a text with a closed set of values, those values."""
    return {name: (kind.type, kind.values) for name, kind in fact_kinds().items()}


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
    saves = 0.0
    if "lora" in estimates and "qlora" in estimates and available:
        saves = (estimates["lora"].memory.high_bytes - estimates["qlora"].memory.high_bytes) / available
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
        supports_flash_attention_2=gpu is not None and bool(gpu.supports_flash_attention_2),
        model_parameters_billion=model.total_params / 1e9,
        model_family=model.family,
        vocab_size=model.vocab_size,
        is_moe=model.experts is not None,
        experts_fused=model.experts is not None and bool(model.experts.fused_parameters),
        training_examples=request.examples or 0,
        qlora_saves=saves,
        task=request.task or "unspecified",
        team=request.team or "unspecified",
        priority=request.priority or "unspecified",
        method=request.fixed.get("method", "lora"),
        **fitting,
    )


def of_approach(facts: Facts, approach: Approach, *, rank: int = 0) -> Facts:
    """The facts while an approach is under consideration; with `rank`, once that is chosen."""
    return dataclasses.replace(facts, approach=approach, method="full" if approach == "full" else facts.method, rank=rank)


def of_recipe(facts: Facts, estimate: Estimate) -> Facts:
    """The facts of an approach (`of_approach`) once its best recipe is found."""
    recipe, speed = estimate.recipe, estimate.throughput
    same = (
        "micro_batch",
        "gradient_accumulation",
        "seq_len",
        "gradient_checkpointing",
        "packing",
        "attention",
        "loss",
        "optimizer",
        "sharding",
    )
    values: dict[str, Any] = {name: getattr(recipe, name) for name in same}
    if speed is not None:
        values |= {f"{name}_share": speed.shares.get(name, 0.0) for name in ("launch", "dequantization", "loss")}
        values["recomputed_share"] = speed.stretches.get("recomputation", 0.0)
        values["padding_share"] = 0.0 if speed.useful_share is None else 1 - speed.useful_share
    return dataclasses.replace(facts, target_modules=",".join(recipe.target_modules), fit=estimate.memory.verdict, **values)


def headroom(estimate: Estimate) -> float:
    """The share of the available memory that is left at the upper end of the estimate; negative when it does not fit."""
    memory = estimate.memory
    return max(DOES_NOT_FIT, 1 - memory.high_bytes / memory.available_bytes) if memory.available_bytes > 0 else DOES_NOT_FIT
