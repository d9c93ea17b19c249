"""An estimate from the trace: allocated memory as the real model takes it, and what the simulated allocator reserves for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ftadvise.estimator.activations import Batch
from ftadvise.estimator.allocator import AllocatorOptions, simulate
from ftadvise.estimator.device_memory import DeviceMemory, available_bytes, context_bytes, device_memory
from ftadvise.estimator.estimate import estimate
from ftadvise.estimator.estimate_types import Components, Estimate, MemoryEstimate, Phase, Stack
from ftadvise.estimator.memory import reserve_kind
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.timeline import Timeline
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.model_spec import ModelSpec

_TRAINING: tuple[Phase, ...] = ("load", "forward", "backward", "optimizer_step")


def traced_estimate(
    model: ModelSpec,
    hardware: Hardware,
    recipe: Recipe,
    stack: Stack,
    *,
    batch: Batch | None = None,
    expandable_segments: bool = False,
    timeline_path: Path | None = None,
    trust_remote_code: bool = False,
) -> Estimate:
    """Like `estimate`, with memory traced on the meta device (seconds; needs ftadvise[run]).

    Args:
        expandable_segments: simulate the allocator with PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True.
        timeline_path: write allocated memory over time to this CSV file.

    Raises:
        InputError: the training libraries are missing, or the real model cannot be built.
    """
    from ftadvise.estimator.trace import trace

    derived = estimate(model, hardware, recipe, stack, batch=batch)
    recipe = derived.recipe
    traced = trace(model, hardware, recipe, stack, batch=batch, trust_remote_code=trust_remote_code)
    if timeline_path is not None:
        traced.timeline.write_csv(timeline_path)
    components = Components(**traced.components)
    notes = [*derived.memory.notes, *traced.notes]
    gpu, training = hardware.gpu, training_part(traced.timeline)
    reserved: int | None = None
    if gpu is not None:
        limit = available_bytes(gpu) - context_bytes()
        limited = simulate(training, AllocatorOptions(limit_bytes=limit, expandable_segments=expandable_segments))
        if limited.out_of_memory is not None:
            notes.append(f"the simulated allocator runs out: {limited.out_of_memory.message}")
            limited = simulate(training, AllocatorOptions(expandable_segments=expandable_segments))
        elif limited.retries:
            notes.append(f"the allocator has to give its cache back {limited.retries} times to go on, which costs speed")
        reserved = limited.peak_reserved_bytes
    dynamic = components.activations + components.loss
    outer: DeviceMemory = device_memory(
        hardware, components, dynamic_bytes=dynamic, kind=reserve_kind(recipe, stack), unexplained_share=0.0, reserved_bytes=reserved
    )
    memory = MemoryEstimate(
        peak_allocated_bytes=traced.peak_allocated_bytes,
        peak_reserved_bytes=outer.reserved_bytes,
        device_used_bytes=outer.used_bytes,
        low_bytes=outer.low_bytes,
        high_bytes=outer.high_bytes,
        available_bytes=outer.available_bytes,
        verdict=outer.verdict,
        peak_phase=traced.peak_phase,  # type: ignore[arg-type]
        phases=dict(traced.phases),  # type: ignore[arg-type]
        components=dataclasses.replace(components, context=outer.context_bytes),
        basis="traced",
        notes=tuple(notes),
        peak_operation=traced.peak_operation,
        peak_module=traced.peak_module,
    )
    return dataclasses.replace(derived, memory=memory, trainable_parameters=traced.trainable_parameters, basis="traced")


def training_part(timeline: Timeline) -> Timeline:
    """The timeline up to the end of the last optimizer step."""
    end = max((index + 1 for index, phase in enumerate(timeline.phases) if phase in _TRAINING), default=0)
    return Timeline(
        timeline.storages[:end],
        timeline.sizes[:end],
        timeline.labels[:end],
        timeline.operations[:end],
        timeline.modules[:end],
        timeline.phases[:end],
    )
