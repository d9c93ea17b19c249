"""From residuals to the 90 % interval: quantiles of measured over predicted, per stack, metric and basis.

The upper end of an interval must hold what runs out of memory, so the quantiles are of ln(measured / predicted).
`leave_one_source_out` is the honest check: the quantiles of all other sources, applied to one.

Run: python -m benchmarks.accuracy.interval
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from benchmarks.accuracy.__main__ import predict_all
from benchmarks.accuracy.score import Scored

COVERAGE = 0.90


def quantiles(residuals: Sequence[float], coverage: float = COVERAGE) -> tuple[float, float]:
    """Lower and upper end of the central share `coverage` of some log ratios, by linear interpolation between order statistics."""
    ordered = sorted(residuals)
    tail = (1 - coverage) / 2
    return _quantile(ordered, tail), _quantile(ordered, 1 - tail)


def groups(scored: Sequence[Scored], key: Callable[[Scored], tuple[str, ...]]) -> dict[tuple[str, ...], list[float]]:
    """Log ratios (measured / predicted) by a key."""
    found: dict[tuple[str, ...], list[float]] = {}
    for each in scored:
        found.setdefault(key(each), []).append(each.log_ratio)
    return found


def leave_one_source_out(scored: Sequence[Scored]) -> list[tuple[str, int, float]]:
    """(source, readings, share of them inside the interval that the other sources give)."""
    found = []
    for source in sorted({each.case.source for each in scored}):
        others = [each.log_ratio for each in scored if each.case.source != source]
        if not others:
            continue
        low, high = quantiles(others)
        own = [each.log_ratio for each in scored if each.case.source == source]
        found.append((source, len(own), sum(low <= value <= high for value in own) / len(own)))
    return found


def main() -> None:
    """Print the quantiles of every group and the check."""
    scored = predict_all().single
    print("ln(measured / predicted) as factors on the prediction: median, 5 %, 95 %")
    by_stack = groups(scored, lambda each: (each.case.stack, each.measurement.metric, "fully" if each.case.fully_known else "partly"))
    for key, values in sorted(by_stack.items()):
        low, high = quantiles(values)
        factors = f"{math.exp(statistics.median(values)):.3f}  {math.exp(low):.3f} - {math.exp(high):.3f}"
        print(f"{' / '.join(key):60s} n {len(values):3d}  {factors}")
    for known in (True, False):
        print(f"leave one source out, {'fully' if known else 'partly'} known:")
        for source, count, share in leave_one_source_out([each for each in scored if each.case.fully_known == known]):
            print(f"  {source:30s} n {count:3d}  {100 * share:.0f} % inside")


def _quantile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


if __name__ == "__main__":
    main()
