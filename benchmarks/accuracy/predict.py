"""What ftadvise says about a case: the analytic estimate, and the trace with the allocator simulation where they are available."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.accuracy.case import Case, Metric, Verdict
from ftadvise.estimator.estimate import estimate
from ftadvise.estimator.estimate_types import Stack
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.stack import stack_of
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.probe import named_hardware
from ftadvise.profiles.resolve_model import resolve_model

hardware_of = functools.cache(named_hardware)
model_of = functools.cache(resolve_model)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Peaks in bytes by metric, the interval around the device's use, and what they are made of."""

    peak_bytes: Mapping[Metric, int]
    low_bytes: int
    high_bytes: int
    peak_phase: str
    components: Mapping[str, int]

    def covers(self, metric: Metric, peak_bytes: float) -> bool | None:
        """Whether the interval holds this measurement; None for allocated, which has no interval of its own."""
        if metric == "allocated":
            return None
        beyond = self.peak_bytes["device_used"] - self.peak_bytes[metric]
        return self.low_bytes - beyond <= peak_bytes <= self.high_bytes - beyond


def analytic(case: Case) -> Prediction:
    """The analytic estimate.

    Raises:
        InputError: the estimator refuses the recipe.
    """
    memory = estimate(model_of(case.model), hardware(case), case.recipe, stack(case)).memory
    peaks: dict[Metric, int] = {
        "allocated": memory.peak_allocated_bytes,
        "reserved": memory.peak_reserved_bytes,
        "device_used": memory.device_used_bytes,
    }
    return Prediction(peaks, memory.low_bytes, memory.high_bytes, memory.peak_phase, dataclasses.asdict(memory.components))


def verdict_of(case: Verdict, recipe: Recipe) -> tuple[str, int, int]:
    """The analytic verdict for one recipe, the upper end of its interval and the card's memory, in bytes."""
    memory = estimate(model_of(case.model), hardware_of(case.gpu), recipe, stack_of(case.stack)).memory
    return memory.verdict, memory.device_used_bytes, memory.available_bytes


def stack(case: Case) -> Stack:
    """The case's stack with its own flags, as far as a stack can say them."""
    known = {field.name for field in dataclasses.fields(Stack)}
    flags = {name: value for name, value in case.stack_flags.items() if name in known}
    return dataclasses.replace(stack_of(case.stack), **flags)  # type: ignore[arg-type]


def hardware(case: Case) -> Hardware:
    """The machine of the run: so many of its GPUs."""
    return hardware_of(case.gpu if case.n_gpus == 1 else f"{case.n_gpus}x {case.gpu}")
