"""What benchmarks/results/throughput_accuracy.csv says in a few lines for the documentation. Reads the file; predicts nothing.

A block `<!-- summary: accuracy.throughput.summary -->` of a document holds what `summary` returns (docs/refresh.py).

Run: python -m benchmarks.accuracy.throughput.summary
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parents[2] / "results" / "throughput_accuracy.csv"


@dataclass(frozen=True, slots=True)
class Reading:
    """One line of the file that has a prediction. `error` is predicted over measured speed, minus 1."""

    id: str
    source: str
    known: str
    part: str
    error: float
    covered: bool


def readings(path: Path = RESULTS) -> list[Reading]:
    """Every run with its prediction, in the file's order."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Reading(row["id"], row["source"], row["known"], row["part"], float(row["error_percent"]) / 100, row["covered"] == "True")
            for row in csv.DictReader(file)
            if not row["excluded_because"]
        ]


def summary() -> str:
    """Bullets for the README."""
    every = readings()
    known = [each for each in every if each.known == "fully" and each.part == "report"]
    rest = [each for each in every if each.known == "partly" and each.part == "report"]
    lines = [
        f"- {len(known)} published runs whose settings are fully known ({_sources(known)}), on which no constant was derived: tokens per",
        f"  second are {_mean(known)} off on average, {_within(known)} of the runs within 20 %; {_inside(known)} lie inside the interval.",
        f"- {len(rest)} more, scored apart, leave a setting open, mostly the lengths: median {_median(rest)}, {_within(rest)} within 20 %.",
    ]
    return "\n".join(lines) + "\n"


def table() -> str:
    """Figures by part, by what is known and by source, as a Markdown table."""
    lines = [
        "| part | settings | source | runs | mean | bias | median | within 20 % | inside the interval |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    groups: dict[tuple[str, str, str], list[Reading]] = {}
    for each in readings():
        groups.setdefault((each.part, each.known, each.source), []).append(each)
    for (part, known, source), group in sorted(groups.items()):
        bias = f"{100 * statistics.fmean(each.error for each in group):+.1f} %"
        cells = [str(len(group)), _mean(group), bias, _median(group), _within(group), _inside(group)]
        lines.append(f"| {part} | {known} | {source} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _sources(group: Sequence[Reading]) -> str:
    return ", ".join(sorted({each.source for each in group}))


def _mean(group: Sequence[Reading]) -> str:
    return f"{100 * statistics.fmean(abs(each.error) for each in group):.1f} %"


def _median(group: Sequence[Reading]) -> str:
    return f"{100 * statistics.median(abs(each.error) for each in group):.1f} %"


def _within(group: Sequence[Reading]) -> str:
    return f"{100 * sum(abs(each.error) <= 0.2 for each in group) / len(group):.0f} %"


def _inside(group: Sequence[Reading]) -> str:
    return f"{100 * sum(each.covered for each in group) / len(group):.0f} %"


if __name__ == "__main__":
    print(summary(), table(), sep="\n")
