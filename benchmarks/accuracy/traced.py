"""What the trace and the allocator simulation say about a case. Needs ftadvise[run]; seconds to a minute for each recipe."""

from __future__ import annotations

import functools

from benchmarks.accuracy.case import Case, Metric
from benchmarks.accuracy.predict import Prediction, analytic, hardware_of, model_of, stack
from ftadvise.estimator.allocator import AllocatorOptions, simulate
from ftadvise.estimator.estimate_types import Stack
from ftadvise.estimator.recipe import Recipe


def traced(case: Case) -> Prediction:
    """Peaks of the trace; the context and the width of the interval are those of the analytic estimate.

    Raises:
        InputError: the trace or the estimator refuses the recipe.
    """
    estimate = analytic(case)
    context = estimate.peak_bytes["device_used"] - estimate.peak_bytes["reserved"]
    allocated, reserved, phase = _peaks(case.model, case.gpu, case.recipe, _Key(stack(case)), context)
    peaks: dict[Metric, int] = {"allocated": allocated, "reserved": reserved, "device_used": reserved + context}
    shift = peaks["device_used"] - estimate.peak_bytes["device_used"]
    return Prediction(peaks, estimate.low_bytes + shift, estimate.high_bytes + shift, phase, {})


class _Key:
    """A stack as a cache key: its dictionary of versions has no hash."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and repr(self.stack) == repr(other.stack)

    def __hash__(self) -> int:
        return hash(repr(self.stack))


@functools.cache
def _peaks(model: str, gpu: str, recipe: Recipe, key: _Key, context_bytes: int) -> tuple[int, int, str]:
    from ftadvise.estimator.trace import trace
    from ftadvise.estimator.trace.result import OUTSIDE_TRAINING

    hardware = hardware_of(gpu)
    result = trace(model_of(model), hardware, recipe, key.stack)
    card_bytes = hardware.gpu.memory_bytes if hardware.gpu else 0
    replayed = simulate(result.timeline, AllocatorOptions(limit_bytes=card_bytes - context_bytes))
    if replayed.out_of_memory:  # say by how much
        replayed = simulate(result.timeline)
    # the trace also evaluates and saves; these runs did not
    reserved = max(size for phase, size in replayed.reserved_by_phase.items() if phase not in OUTSIDE_TRAINING)
    return result.peak_allocated_bytes, reserved, result.peak_phase
