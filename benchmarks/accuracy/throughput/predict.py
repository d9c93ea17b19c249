"""What ftadvise says about a run. `_estimate` is the one place that calls the estimator."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from benchmarks.accuracy import predict
from benchmarks.accuracy.case import Case
from benchmarks.accuracy.models import model_of
from benchmarks.accuracy.throughput.run import Run
from ftadvise.estimator import throughput
from ftadvise.estimator.estimate_types import ThroughputEstimate
from ftadvise.profiles.errors import InputError


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds of one optimizer step with their interval, and what they go into."""

    seconds: float
    low_seconds: float
    high_seconds: float
    bound_by: str
    shares: dict[str, float]

    def covers(self, seconds: float) -> bool:
        """Whether the interval holds a measured step."""
        return self.low_seconds <= seconds <= self.high_seconds


def predicted(run: Run) -> Prediction:
    """The estimate, averaged over the lengths of the run's micro batches.

    Raises:
        InputError: the estimator refuses the recipe or does not know the GPU's rates.
    """
    found = [_estimate(run.case, length) for length in run.batch_lengths]
    seconds = statistics.fmean(each.seconds_per_step for each in found)
    middle = max(found, key=lambda each: each.seconds_per_step)
    # the interval is of tokens per second: its upper end is the quicker step
    quick, slow = middle.tokens_per_second / middle.high, middle.tokens_per_second / middle.low
    shares = {name: statistics.fmean(each.shares.get(name, 0.0) for each in found) for name in middle.shares}
    return Prediction(seconds, seconds * quick, seconds * slow, middle.bound_by, shares)


def _estimate(case: Case, length: int) -> ThroughputEstimate:
    recipe = case.recipe.replace(seq_len=length)
    found = throughput.estimate_throughput(model_of(case.model), predict.hardware(case), recipe, predict.stack(case))
    if found is None:
        raise InputError(f"no rates for {recipe.compute_dtype} on {case.gpu}")
    return found
