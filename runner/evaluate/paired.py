"""Two models on the same rows: a figure for each, their difference, and its interval by the paired bootstrap. Imports numpy late."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.float64]

RESAMPLES = 1000
_AT_ONCE = 1 << 22
"""Numbers drawn at a time: 32 MiB."""
_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of both models. `low` to `high` holds `difference` (tuned minus base) with 95 %; None for a single row."""

    name: str
    base: float
    tuned: float
    difference: float
    low: float | None
    high: float | None
    lower_is_better: bool
    rows: int
    how: str
    """How it was counted, e.g. the signature of sacrebleu."""

    @property
    def is_clear(self) -> bool | None:
        """Whether the interval leaves out zero; None without an interval."""
        return None if self.low is None or self.high is None else not self.low <= 0 <= self.high


def paired(
    name: str, base: Rows, tuned: Rows, value: Callable[[Any], float], *, seed: int, how: str, lower_is_better: bool = False
) -> Measure:
    """The measure of two models whose figure is a function of sums over rows.

    The interval is the percentile interval of the paired bootstrap: rows are drawn with replacement, the same for both models (Koehn 2004,
    "Statistical significance tests for machine translation evaluation", EMNLP).

    Args:
        base, tuned: rows x k statistics of each model, row i of both from the same example.
        value: the figure, from the k sums.
    """
    of_base, of_tuned = value(base.sum(axis=0)), value(tuned.sum(axis=0))
    differences = sorted(_differences(base, tuned, value, seed)) if len(base) > 1 else []
    low, high = _interval(differences)
    return Measure(name, of_base, of_tuned, of_tuned - of_base, low, high, lower_is_better, len(base), how)


def _differences(base: Rows, tuned: Rows, value: Callable[[Any], float], seed: int) -> list[float]:
    import numpy as np

    count, generator, found = len(base), np.random.default_rng(seed), []
    share = np.full(count, 1 / count)
    remaining = RESAMPLES
    while remaining:
        now = min(remaining, max(1, _AT_ONCE // count))
        # how often each row was drawn says the same as the rows themselves
        drawn = generator.multinomial(count, share, size=now).astype(np.float64)
        found += [value(b) - value(a) for a, b in zip(drawn @ base, drawn @ tuned, strict=True)]
        remaining -= now
    return [difference for difference in found if math.isfinite(difference)]


def _interval(differences: list[float]) -> tuple[float | None, float | None]:
    if not differences:
        return None, None
    outside = (1 - _LEVEL) / 2
    last = len(differences) - 1
    return differences[math.floor(outside * last)], differences[math.ceil((1 - outside) * last)]
