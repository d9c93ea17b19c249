"""`trace`: one recipe, two training steps on the meta device, every storage recorded."""

from __future__ import annotations

from typing import Any

from ftadvise.estimator.activations import Batch, batch_of
from ftadvise.estimator.estimate_types import Stack
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.trace.result import TraceResult, result_of
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.model_spec import ModelSpec

_HINT = "estimate it without --trace"


def trace(
    model: ModelSpec,
    hardware: Hardware,
    recipe: Recipe,
    stack: Stack,
    *,
    batch: Batch | None = None,
    autocast: bool | None = None,
    evaluation_batch: int | None = None,
    trust_remote_code: bool = False,
) -> TraceResult:
    """Build the real model with its real adapter on meta, and record loading, two optimizer steps and an evaluation pass.

    Args:
        hardware: its first GPU is emulated, or its CPU when it has none.
        batch: the micro batch, by default the largest that the recipe allows.
        autocast: whether the training code computes under autocast; by default as the stack says.
        evaluation_batch: sequences per evaluation pass; by default the stack's (8 for transformers), and for our runner, which does not
            evaluate, as many as in a micro batch.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        InputError: the training libraries are missing, or the model or the recipe cannot be built.
    """
    try:
        import peft  # noqa: F401 - only whether it is there
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise InputError(f"the trace needs {error.name}, which is not installed", hint='pip install "ftadvise[run]"') from None
    from ftadvise.estimator.trace.step import TracedTraining

    _check(model, recipe, stack)
    batch = batch or batch_of(recipe, stack)
    training = TracedTraining(model, hardware, recipe, stack, batch, autocast=autocast, trust_remote_code=trust_remote_code)
    try:
        with training.emulated():
            training.step()
            training.step()
            training.evaluate(evaluation_batch or stack.eval_micro_batch or batch.sequences)
            training.save()
    except (RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{model.id}: the meta device cannot run this step ({reason})", hint=_HINT) from None
    counts: dict[str, Any] = training.parameter_counts()
    return result_of(training.recorder.timeline(), device=training.device, notes=tuple(training.notes), **counts)


def _check(model: ModelSpec, recipe: Recipe, stack: Stack) -> None:
    """Refuse what is not executed here; the analytic estimate knows these."""
    if model.experts is not None and stack.expert_modules:
        raise InputError(f"stack {stack.name}: its experts are modules, the installed transformers fuses them", hint=_HINT)
    if recipe.quantization in ("nf4", "fp4") and (stack.keeps_4bit_inputs or stack.expands_4bit_to_fp16):
        raise InputError(f"stack {stack.name}: its bitsandbytes kept more than the installed one", hint=_HINT)
    if recipe.sharding not in ("none", "ddp"):
        raise InputError(f"sharding {recipe.sharding}: the trace follows one GPU that holds everything", hint=_HINT)
    if recipe.offload != "none":
        raise InputError(f"offload {recipe.offload}: the trace follows one device", hint=_HINT)
    kernel = stack.loss_kernel(recipe.loss)
    if kernel.kind not in ("logits", "recomputed_chunks", "tiles") or kernel.gradient_in_place or not kernel.upcasts or (
        kernel.kind == "tiles" and not kernel.tile_vocabulary
    ):  # fmt: skip
        raise InputError(f"stack {stack.name}: the trace cannot run its loss {kernel.name}", hint=_HINT)
    if stack.kernels(quantized=recipe.quantization != "none"):
        raise InputError(f"stack {stack.name}: the trace cannot run its fused kernels", hint=_HINT)
    if stack.offloads_checkpoints or stack.quantizes_head:
        raise InputError(f"stack {stack.name}: the trace does not follow its own training loop", hint=_HINT)
