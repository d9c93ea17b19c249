"""The recorded step of one recipe on one device: what memory and time are both priced from."""

from __future__ import annotations

from dataclasses import dataclass

from ftadvise.estimator.activations import Batch, attention_kernel, batch_of
from ftadvise.estimator.estimate_types import Stack
from ftadvise.estimator.peft_settings import adapter_rank, virtual_tokens
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.tape.build import Setting, StepProfile, step_profile
from ftadvise.estimator.tape.profile import Vector, quantities
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.model_spec import ModelSpec


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """`values` are the quantities of one micro batch, `evaluation_values` those of one in evaluation."""

    batch: Batch
    setting: Setting
    profile: StepProfile
    values: Vector
    evaluation_values: Vector


def recorded_step(model: ModelSpec, hardware: Hardware, recipe: Recipe, stack: Stack, batch: Batch | None = None) -> RecordedStep:
    """The step of the largest micro batch that the recipe allows, or of `batch`; the structure is recorded once and kept."""
    device, gpu = "cuda" if hardware.gpu else "cpu", hardware.gpu
    batch = batch or batch_of(recipe, stack)
    kernel = attention_kernel(model, recipe, batch, device=device, compute_capability=gpu.compute_capability if gpu else None)
    windowed = bool(model.sliding_window and batch.seq_len >= model.sliding_window)
    setting = Setting(kernel, batch.masked, single=batch.sequences == 1, like_cuda=device == "cuda", windowed=windowed)
    loss, (prompt_tokens, prefix_tokens) = stack.loss_kernel(recipe.loss), virtual_tokens(recipe)

    def values_of(sequences: int) -> Vector:
        return quantities(
            sequences=sequences,
            seq_len=batch.seq_len,
            rank=adapter_rank(recipe),
            prompt_tokens=prompt_tokens,
            prefix_tokens=prefix_tokens,
            chunk_tokens=lambda tokens: loss.tokens_per_chunk(tokens, model.hidden_size, model.vocab_size, sequences=sequences),
        )

    values, evaluated = values_of(batch.sequences), stack.eval_micro_batch
    return RecordedStep(
        batch,
        setting,
        step_profile(model, recipe, stack, setting),
        values,
        values_of(evaluated) if evaluated else values,
    )
