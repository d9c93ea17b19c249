"""TraceResult: what the trace of one recipe found."""

from __future__ import annotations

from dataclasses import dataclass, field

from ftadvise.estimator.timeline import Timeline

OUTSIDE_TRAINING = ("evaluation", "save", "merge")
"""Phases that a run may do without: they are traced, but the peak of training is taken over the others."""


@dataclass(frozen=True, slots=True)
class TraceResult:
    """Allocated memory over time, in bytes, and its peak.

    `phases`: the most live bytes in each phase. `components`: live bytes by component at the peak; they sum to `peak_allocated_bytes`.
    `peak_operation` and `peak_module`: who took the storage that made the peak.
    """

    timeline: Timeline
    peak_allocated_bytes: int
    peak_phase: str
    peak_operation: str
    peak_module: str
    phases: dict[str, int]
    components: dict[str, int]
    trainable_parameters: int
    parameters: int
    device: str
    notes: tuple[str, ...] = field(default_factory=tuple)


def result_of(timeline: Timeline, *, trainable_parameters: int, parameters: int, device: str, notes: tuple[str, ...]) -> TraceResult:
    """Read the peak of training from a timeline. Labels at the peak are those known at the end."""
    best, index, live = -1, -1, 0
    for position, (size, phase) in enumerate(zip(timeline.sizes, timeline.phases, strict=True)):
        live += size
        if live > best and phase not in OUTSIDE_TRAINING:
            best, index = live, position
    return TraceResult(
        timeline=timeline,
        peak_allocated_bytes=best,
        peak_phase=timeline.phases[index],
        peak_operation=timeline.operations[index],
        peak_module=timeline.modules[index],
        phases=timeline.phase_peaks(),
        components=timeline.components_at(index),
        trainable_parameters=trainable_parameters,
        parameters=parameters,
        device=device,
        notes=notes,
    )
