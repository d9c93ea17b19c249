"""One recipe, priced: memory and time. Pure Python, well below a millisecond, so that thousands of recipes can be compared."""

from __future__ import annotations

import dataclasses

from ftadvise.estimator.activations import Batch
from ftadvise.estimator.corrections import corrected
from ftadvise.estimator.estimate_types import Estimate, Stack
from ftadvise.estimator.memory import estimate_memory
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.recorded_step import recorded_step
from ftadvise.estimator.sharding import check_sharding
from ftadvise.estimator.stack import stack_of
from ftadvise.estimator.throughput import estimate_throughput
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.model_spec import ModelSpec


def estimate(
    model: ModelSpec,
    hardware: Hardware,
    recipe: Recipe,
    stack: Stack | None = None,
    *,
    batch: Batch | None = None,
    detail: bool = True,
    speed: bool = True,
) -> Estimate:
    """What training `model` with `recipe` costs on one device of `hardware`.

    Args:
        stack: the training code; our own runner by default.
        batch: price this micro batch instead of the largest the recipe allows.
        detail: price the evaluation phase too, and tell loss and workspace from activations; a search does without.
        speed: price the time; where only memory matters it need not be.

    Raises:
        InputError: the recipe names modules the model does not have, or the device cannot run it.
    """
    stack = stack or stack_of()
    recipe, corrections = corrected(model, recipe, stack)
    check_supported(model, hardware, recipe)
    step = recorded_step(model, hardware, recipe, stack, batch)
    memory, static = estimate_memory(model, hardware, recipe, stack, step=step, detail=detail)
    if corrections:
        memory = dataclasses.replace(memory, notes=corrections + memory.notes)
    return Estimate(
        model=model,
        hardware=hardware,
        stack=stack,
        recipe=recipe,
        memory=memory,
        throughput=estimate_throughput(model, hardware, recipe, stack, step=step) if speed else None,
        trainable_parameters=static.trainable_parameters,
    )


def check_supported(model: ModelSpec, hardware: Hardware, recipe: Recipe) -> None:
    """Raise InputError when this device or model cannot run the recipe at all, whatever its memory."""
    gpu = hardware.gpu
    if model.kind in ("encoder", "seq2seq"):
        raise InputError(
            f"{model.id} is a {model.kind} model; this version prices causal language models only", hint="see: ftadvise models"
        )
    if recipe.rank > model.hidden_size:
        raise InputError(f"rank {recipe.rank} is above the model's width {model.hidden_size}: an adapter would be larger than its layer")
    check_sharding(hardware, recipe)
    if gpu is None:
        if recipe.attention == "flash_attention_2":
            raise InputError("flash_attention_2 needs a CUDA GPU", hint="use --attention sdpa")
        return
    if recipe.compute_dtype == "bf16" and not gpu.supports_bf16:
        raise InputError(f"{gpu.name} has no bf16", hint="use --compute-dtype fp16")
    if recipe.attention == "flash_attention_2" and gpu.supports_flash_attention_2 is False:
        raise InputError(f"{gpu.name} cannot run FlashAttention-2 (it needs compute capability 8.0)", hint="use --attention sdpa")
