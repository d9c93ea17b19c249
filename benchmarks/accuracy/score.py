"""Predicted against measured: the error of one reading, and the figures of many."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.accuracy.case import Case, Measurement
from benchmarks.accuracy.predict import Prediction

UNDER = 0.05  # a prediction that is more than this too low is one on which a run fails


@dataclass(frozen=True, slots=True)
class Scored:
    """One reading of one run beside its prediction. `primary` marks the figure of the table's peak column, which counts in the totals."""

    case: Case
    measurement: Measurement
    prediction: Prediction
    primary: bool

    @property
    def predicted_bytes(self) -> int:
        """The prediction of what was read."""
        return self.prediction.peak_bytes[self.measurement.metric]

    @property
    def error(self) -> float:
        """Predicted over measured, minus 1."""
        return self.predicted_bytes / self.measurement.peak_bytes - 1

    @property
    def log_ratio(self) -> float:
        """ln(measured / predicted): what the interval is made of."""
        return math.log(self.measurement.peak_bytes / self.predicted_bytes)

    @property
    def covered(self) -> bool | None:
        """Whether the stated interval holds the measurement; None where it has none."""
        return self.prediction.covers(self.measurement.metric, self.measurement.peak_bytes)


@dataclass(frozen=True, slots=True)
class Figures:
    """Errors of a group as shares of what was measured."""

    count: int
    median: float
    mean: float
    bias: float
    worst_over: float
    worst_under: float
    under_share: float
    within_8: float
    coverage: float | None


def figures(scored: Sequence[Scored]) -> Figures:
    """The figures of a group that is not empty."""
    return figures_of([each.error for each in scored], [each.covered for each in scored if each.covered is not None])


def figures_of(errors: Sequence[float], covered: Sequence[bool]) -> Figures:
    """The same from bare errors (predicted / measured - 1) and whether each interval held."""
    absolute = [abs(error) for error in errors]
    return Figures(
        count=len(errors),
        median=statistics.median(absolute),
        mean=statistics.fmean(absolute),
        bias=statistics.fmean(errors),
        worst_over=max(0.0, *errors),
        worst_under=min(0.0, *errors),
        under_share=sum(error < -UNDER for error in errors) / len(errors),
        within_8=sum(error <= 0.08 for error in absolute) / len(errors),
        coverage=sum(covered) / len(covered) if covered else None,
    )


def score(case: Case, prediction: Prediction) -> list[Scored]:
    """Every reading of one run."""
    return [Scored(case, reading, prediction, primary=index == 0) for index, reading in enumerate(case.measured)]
