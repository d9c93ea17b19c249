"""Predicted against published speed: the error of one run, and the figures of many."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.accuracy.case import Excluded
from benchmarks.accuracy.throughput.predict import Prediction, predicted
from benchmarks.accuracy.throughput.run import Run
from ftadvise.profiles.errors import InputError


@dataclass(frozen=True, slots=True)
class Scored:
    """One run beside its prediction."""

    run: Run
    prediction: Prediction

    @property
    def predicted_tokens_per_second(self) -> float:
        """Padded tokens per second and GPU."""
        return self.run.tokens_per_step / self.prediction.seconds

    @property
    def error(self) -> float:
        """Predicted speed over measured speed, minus 1."""
        return self.run.seconds / self.prediction.seconds - 1

    @property
    def covered(self) -> bool:
        """Whether the stated interval holds the measurement."""
        return self.prediction.covers(self.run.seconds)


@dataclass(frozen=True, slots=True)
class Figures:
    """Errors of a group that is not empty, as shares of what was measured. `p90`: nine of ten absolute errors are not larger."""

    count: int
    mean: float
    bias: float
    median: float
    p90: float
    within_20: float
    coverage: float
    worst: Scored


def figures(scored: Sequence[Scored]) -> Figures:
    """The figures of a group that is not empty."""
    absolute = sorted(abs(each.error) for each in scored)
    return Figures(
        count=len(scored),
        mean=statistics.fmean(absolute),
        bias=statistics.fmean(each.error for each in scored),
        median=statistics.median(absolute),
        p90=absolute[max(0, -(-9 * len(absolute) // 10) - 1)],
        within_20=sum(error <= 0.2 for error in absolute) / len(absolute),
        coverage=sum(each.covered for each in scored) / len(scored),
        worst=max(scored, key=lambda each: abs(each.error)),
    )


def score(rows: Sequence[Run | Excluded]) -> tuple[list[Scored], list[Excluded]]:
    """Every run with its prediction; the rows that are excluded or that the estimator refuses."""
    scored: list[Scored] = []
    excluded: list[Excluded] = []
    for row in rows:
        if isinstance(row, Excluded):
            excluded.append(row)
            continue
        try:
            scored.append(Scored(row, predicted(row)))
        except InputError as error:
            excluded.append(Excluded(row.case.id, row.case.source, f"the estimator refuses it: {error}"))
    return scored, excluded
