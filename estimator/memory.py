"""Memory of one recipe: what is held during the whole training, and what a step takes besides, moment by moment.

    load            weights, and while a quantised model is loaded the largest tensor in full precision
    forward,
    backward        static memory + the moments of the tape's profile (tape/): activations, loss, gradients in flight
    optimizer_step  static memory + all gradients + the larger of clipping's and the update's temporaries
    evaluation      static memory + the moments of a forward pass without gradients

Static memory is weights, constants, adapters and the optimizer state, which exists from the second step on. Gradients are held through
forward and backward when they are accumulated over several micro batches; otherwise they come while the backward pass consumes
activations.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

from ftadvise.estimator.activations import Batch
from ftadvise.estimator.device_memory import DeviceMemory, ReserveKind, communicator_bytes, device_memory, matmul_workspace_bytes
from ftadvise.estimator.estimate_types import Components, MemoryEstimate, Phase, Stack
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.recorded_step import RecordedStep, recorded_step
from ftadvise.estimator.sharding import Share, share
from ftadvise.estimator.static_memory import StaticMemory, static_memory
from ftadvise.estimator.tape.build import StepProfile
from ftadvise.estimator.tape.decoders import is_described
from ftadvise.estimator.tape.profile import Moment, Profile, Vector
from ftadvise.profiles.errors import InputError, did_you_mean
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.model_spec import ModelSpec


@dataclass(frozen=True)
class Priced:
    """One recipe with everything its memory is summed from. `base`: bytes of what is held throughout, by component.

    `static` is the whole model's, `share` what one of several GPUs holds of it.
    """

    profile: StepProfile
    values: Vector
    evaluation_values: Vector
    static: StaticMemory
    share: Share
    base: dict[str, int]
    load: dict[str, int]
    update: dict[str, int]

    def phases(self, *, evaluation: bool = True) -> dict[Phase, int]:
        """Peak allocated bytes of each phase; without `evaluation`, which is recorded apart, a search is a third faster."""
        held = sum(self.base.values())
        found: dict[Phase, int] = {
            "load": sum(self.load.values()),
            "forward": held + self.peaks["forward"][0],
            "backward": held + self.peaks["backward"][0],
            "optimizer_step": sum(self.update.values()),
        }
        if evaluation:
            found["evaluation"] = sum(self._held("evaluation").values()) + self.evaluation_peak[0]
        return found

    @functools.cached_property
    def dynamic_bytes(self) -> int:
        """The largest activations and loss of any phase of training: what the allocator caches when they are gone."""
        return max(self.peaks[phase][0] for phase in ("forward", "backward"))

    def components(self, phase: Phase) -> dict[str, int]:
        """Bytes by component at the peak of a phase."""
        if phase == "load":
            return self.load
        if phase == "optimizer_step":
            return self.update
        source, values = self._source(phase)
        found = self._held(phase)
        for label, size in source.components(self._moment(phase), values).items():
            found[label] = found.get(label, 0) + size
        return found

    def rough_components(self, phase: Phase) -> dict[str, int]:
        """The same sum without walking the tape: what a phase adds counts as activations."""
        if phase not in self.peaks:
            return self.components(phase)
        return self.base | {"activations": self.peaks[phase][0]}

    def peak_operation(self, phase: Phase) -> tuple[str, str]:
        """(operation, module) whose tensor makes the peak of a phase; empty for loading and the optimizer step."""
        if phase not in self.peaks:
            return "", ""
        info = self._source(phase)[0].events[self._moment(phase).index][2]
        return info.operation, info.module

    @functools.cached_property
    def peaks(self) -> dict[Phase, tuple[int, Moment]]:
        """(bytes beside what is held throughout, moment) of the forward and the backward pass."""
        training = self.profile.training.phase_peaks(self.values)
        return {"forward": training["forward"], "backward": training["backward"]}

    @functools.cached_property
    def evaluation_peak(self) -> tuple[int, Moment]:
        """The same of a forward pass without gradients."""
        return self.profile.evaluation.phase_peaks(self.evaluation_values)["evaluation"]

    def _moment(self, phase: Phase) -> Moment:
        return self.evaluation_peak[1] if phase == "evaluation" else self.peaks[phase][1]

    def _held(self, phase: Phase) -> dict[str, int]:
        """What is held throughout; evaluation comes after gradients were set to None, but for the buffers that several GPUs keep."""
        return self.base | {"gradients": self.share.buffers} if phase == "evaluation" else dict(self.base)

    def _source(self, phase: Phase) -> tuple[Profile, Vector]:
        if phase == "evaluation":
            return self.profile.evaluation, self.evaluation_values
        return self.profile.training, self.values


def estimate_memory(
    model: ModelSpec,
    hardware: Hardware,
    recipe: Recipe,
    stack: Stack,
    *,
    batch: Batch | None = None,
    step: RecordedStep | None = None,
    detail: bool = True,
) -> tuple[MemoryEstimate, StaticMemory]:
    """Peak memory of training `model` with `recipe` on the first GPU of `hardware`, or on its CPU.

    Args:
        batch: the micro batch that really occurred, to compare with a measurement; by default the largest the recipe allows.
        step: what `recorded_step` says of all these, where the caller knows it.
        detail: price the evaluation phase too, and tell loss and workspace from activations; a search does without.

    Returns:
        The estimate in bytes, and the static terms it was built from.

    Raises:
        InputError: a target module does not exist in this model.
    """
    priced = price_memory(model, hardware, recipe, stack, batch=batch, step=step)
    phases = priced.phases(evaluation=detail)
    # evaluation is priced, but it happens only when the user asks for it
    peak_phase = max((phase for phase in phases if phase != "evaluation"), key=lambda phase: phases[phase])
    peak = Components(**(priced.components(peak_phase) if detail else priced.rough_components(peak_phase)))
    nccl = communicator_bytes(len(hardware.gpus)) if recipe.sharding != "none" else 0
    outer: DeviceMemory = device_memory(
        hardware,
        peak,
        dynamic_bytes=priced.dynamic_bytes,
        kind=reserve_kind(recipe, stack),
        unexplained_share=unexplained_share(model, priced.profile),
        communicator_bytes=nccl,
    )
    operation, module = priced.peak_operation(peak_phase)
    estimate = MemoryEstimate(
        peak_allocated_bytes=peak.allocated_bytes,
        peak_reserved_bytes=outer.reserved_bytes,
        device_used_bytes=outer.used_bytes,
        low_bytes=outer.low_bytes,
        high_bytes=outer.high_bytes,
        available_bytes=outer.available_bytes,
        verdict=outer.verdict,
        peak_phase=peak_phase,
        phases=phases,
        components=dataclasses.replace(peak, context=outer.context_bytes),
        notes=outer.notes + priced.share.notes,
        peak_operation=operation,
        peak_module=module,
        host_bytes=priced.share.host_bytes,
    )
    return estimate, priced.static


def price_memory(
    model: ModelSpec, hardware: Hardware, recipe: Recipe, stack: Stack, *, batch: Batch | None = None, step: RecordedStep | None = None
) -> Priced:
    """The parts of the estimate; arguments as for `estimate_memory`."""
    step = step or recorded_step(model, hardware, recipe, stack, batch)
    profile, values, setting, batch, gpu = step.profile, step.values, step.setting, step.batch, hardware.gpu
    _check_targets(model, recipe, profile)
    static = static_memory(model, recipe, stack, profile, values, device="cuda" if gpu else "cpu")
    part = Share(profile, static, static.gradients if recipe.gradient_accumulation > 1 else 0)
    if recipe.sharding != "none":
        part = share(model, hardware, recipe, stack, setting, profile, static, values)
    held = part.static
    matmul = matmul_workspace_bytes(gpu)
    base = {
        "weights": held.weights,
        "quantization_constants": held.quantization_constants,
        "adapters": held.adapters,
        "optimizer_state": held.optimizer_state,
        "gradients": part.held_gradients + part.buffers,
        "workspace": matmul + part.gathered,
    }
    update = max(held.optimizer.clip_peak_bytes, held.optimizer.step_peak_bytes)
    largest = max((linear.weight_elements for linear in profile.linears if linear.quantized), default=0)
    return Priced(
        profile=part.profile,
        values=values,
        evaluation_values=step.evaluation_values,
        static=static,
        share=part,
        base=base,
        load=base | {"optimizer_state": 0, "gradients": 0, "workspace": 2 * largest},
        update=base | {"gradients": held.gradients + part.buffers, "workspace": matmul + 3 * 8 * batch.tokens + update},
    )


def reserve_kind(recipe: Recipe, stack: Stack) -> ReserveKind:
    """Which of the measured reserves holds: see allocator.yaml."""
    if recipe.sharding not in ("none", "ddp"):
        return "sharded"
    if not recipe.gradient_checkpointing:
        return "kept"
    return "logits" if stack.loss_kernel(recipe.loss).kind == "logits" else "chunks"


def unexplained_share(model: ModelSpec, profile: StepProfile) -> float:
    """Share of the published parameters that the tape did not meet, or met too often; norms and biases stay far below 1 %.

    A model whose layers nobody has described counts as wholly unexplained beyond what its linear layers explain.
    """
    linears = sum(linear.count * linear.weight_elements for linear in profile.linears if linear.layer >= 0)
    embeddings = model.vocab_size * model.hidden_size * (1 if model.tie_word_embeddings else 2)
    experts = model.experts.parameters if model.experts else 0
    missing = abs(model.total_params - linears - embeddings - experts) / max(1, model.total_params)
    return missing if is_described(model) else max(missing, 0.1)


def _check_targets(model: ModelSpec, recipe: Recipe, profile: StepProfile) -> None:
    if recipe.method in ("full", "prefix", "prompt") or recipe.target_modules == ("all-linear",):
        return
    known = sorted({linear.name.rsplit(".", 1)[-1] for linear in profile.linears})
    for wanted in recipe.target_modules:
        if wanted.rsplit(".", 1)[-1] not in known:
            raise InputError(
                f"{model.id} has no linear layer {wanted!r}",
                hint=did_you_mean(wanted, known) or f"its linear layers: {', '.join(known)}",
            )
