"""Which shardings this runner executes, with what. Each refusal is a sentence and what to do instead."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.hardware import Hardware


def sharding_refusals(recipe: Recipe, hardware: Hardware) -> Iterator[tuple[str, str]]:
    """What of the recipe's sharding and offload cannot be executed as it stands, and what to use instead."""
    sharding, offload = recipe.sharding, recipe.offload
    if sharding == "none":
        if offload != "none":
            yield f"offload {offload} is done by DeepSpeed or FSDP, not without sharding", "use sharding zero2, zero3 or fsdp"
        return
    if sharding.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        yield f"sharding {sharding} needs DeepSpeed, which is not installed", "pip install deepspeed"
    if sharding.startswith("zero") and hardware.gpu is None:
        yield f"sharding {sharding} needs a GPU", "use sharding ddp or fsdp"
    yield from _offload(recipe, hardware)
    yield from _whole_parameters(recipe)


def _offload(recipe: Recipe, hardware: Hardware) -> Iterator[tuple[str, str]]:
    sharding, offload = recipe.sharding, recipe.offload
    if offload == "none":
        return
    if hardware.gpu is None:
        yield f"offload {offload} needs a GPU to offload from", "use offload none"
    if sharding == "ddp":
        yield "DDP offloads nothing", "use offload none, or sharding zero2, zero3 or fsdp"
    if sharding == "fsdp" and offload != "all":
        yield f"FSDP offloads parameters, gradients and optimizer together, not {offload} alone", "use offload all"
    if sharding in ("zero1", "zero2") and offload != "optimizer":
        yield f"{sharding} holds all parameters on each GPU: it cannot offload them", "use offload optimizer, or sharding zero3"


def _whole_parameters(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What needs parameters in one piece, or in a dtype of their own."""
    sharding, quantised, adapter = recipe.sharding, recipe.quantization in ("nf4", "fp4"), recipe.method != "full"
    if sharding in ("zero3", "fsdp"):
        if recipe.quantization == "int8":
            yield f"LLM.int8 weights cannot be sharded by {sharding}", "use quantization nf4, or sharding ddp or zero2"
        if recipe.method in ("adalora", "prefix", "prompt"):
            yield f"method {recipe.method} reads its parameters outside the layers that {sharding} gathers", "use sharding ddp or zero2"
    if sharding == "fsdp" and adapter and not quantised and recipe.compute_dtype != "fp32" and recipe.adapter_dtype != "fp32":
        yield f"FSDP with {recipe.compute_dtype} holds what is trained in fp32, not {recipe.adapter_dtype}", "use adapter_dtype fp32"
