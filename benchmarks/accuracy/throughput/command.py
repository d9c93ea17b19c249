"""Predict every published speed and write docs/throughput_accuracy.md, its picture and benchmarks/results/throughput_accuracy.csv.

Run: python -m benchmarks.accuracy --throughput [--part derive|report] [--only SOURCE] [--print]
"""

from __future__ import annotations

import sys
from pathlib import Path

import ftadvise
from benchmarks.accuracy.throughput import report, scatter, table
from benchmarks.accuracy.throughput.pairs import documented_pairs, found_pairs
from benchmarks.accuracy.throughput.rows import Part, of_part, runs, source_of
from benchmarks.accuracy.throughput.score import score

ROOT = Path(__file__).parents[3]


def results(only: str = "", part: Part | None = None) -> report.Results:
    """Every run of one part, or all, whose source contains `only`, with the pairs among them."""
    rows = [row for row in of_part(runs(), part) if only.lower() in source_of(row).lower()]
    scored, excluded = score(rows)
    documented = documented_pairs([each.run for each in scored], others=not only and part is None)
    named = {(pair.first.case.id, pair.second.case.id) for pair in documented}
    found = [pair for pair in found_pairs(scored) if (pair.first.case.id, pair.second.case.id) not in named]
    return report.Results(scored, excluded, [*documented, *found], f"ftadvise {ftadvise.__version__}.")


def run(only: str = "", part: Part | None = None, *, prints: bool = False) -> int:
    """Write the page, or print it where it is not of all rows."""
    found = results(only, part)
    text = report.page(found)
    if prints or only or part:
        print(text)
        return 0
    table.write_rows(ROOT / "benchmarks" / "results" / "throughput_accuracy.csv", found.scored, found.excluded)
    (ROOT / "docs" / "throughput_accuracy.md").write_text(text, encoding="utf-8")
    try:
        scatter.draw(ROOT / "docs" / "throughput_accuracy.svg", found.scored)
    except ImportError:
        print("matplotlib is not installed: docs/throughput_accuracy.svg is left as it is", file=sys.stderr)
    print(report.bars(found))
    return 0
