"""Predict every published row and write docs/accuracy.md, docs/accuracy.svg and benchmarks/results/accuracy.csv.

Run: python -m benchmarks.accuracy [--trace] [--only SOURCE] [--print]
With --throughput the published speeds instead: benchmarks/accuracy/throughput/command.py says what it writes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ftadvise
from benchmarks.accuracy import report, scatter, table
from benchmarks.accuracy.case import Case, Excluded
from benchmarks.accuracy.peers import read_peers
from benchmarks.accuracy.predict import Prediction, analytic
from benchmarks.accuracy.rows import multi_gpu, single_gpu, verdicts
from benchmarks.accuracy.score import Scored, score
from benchmarks.accuracy.verdicts import judge
from ftadvise.profiles.errors import InputError

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Predicted:
    """Every reading with its analytic prediction, and the rows that have none."""

    single: list[Scored]
    multi: list[Scored]
    excluded: list[Excluded]
    excluded_multi: list[Excluded]


def predict_all(only: str = "") -> Predicted:
    """The analytic prediction of every row whose source contains `only`."""
    single, excluded = predict_rows(_of(single_gpu(), only), analytic)
    multi, excluded_multi = predict_rows(_of(multi_gpu(), only), analytic)
    return Predicted(single, multi, excluded, excluded_multi)


def predict_rows(rows: Sequence[Case | Excluded], predict: Callable[[Case], Prediction]) -> tuple[list[Scored], list[Excluded]]:
    """Every reading of the cases with its prediction; the rows that are excluded or that the estimator refuses."""
    scored: list[Scored] = []
    excluded: list[Excluded] = []
    for row in rows:
        if isinstance(row, Excluded):
            excluded.append(row)
            continue
        try:
            scored += score(row, predict(row))
        except InputError as error:
            excluded.append(Excluded(row.id, row.source, f"the estimator refuses it: {error}"))
    return scored, excluded


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__.split("\n")[0])
    parser.add_argument("--trace", action="store_true", help="also trace every one-GPU row (needs ftadvise[run]; minutes)")
    parser.add_argument("--only", default="", metavar="SOURCE", help="sources whose name contains this")
    parser.add_argument("--print", action="store_true", help="print the page and write no file")
    parser.add_argument("--throughput", action="store_true", help="predict the published speeds, not the published memory")
    parser.add_argument("--part", choices=("derive", "report"), help="with --throughput: what constants may be derived from, or the rest")
    options = parser.parse_args(arguments)
    if options.throughput:
        from benchmarks.accuracy.throughput.command import run

        return run(options.only, options.part, prints=options.print)
    found = predict_all(options.only)
    traced: list[Scored] = []
    if options.trace:
        from benchmarks.accuracy.traced import traced as trace_case

        traced, _ = predict_rows(_of(single_gpu(), options.only), trace_case)
    results = report.Results(
        single=found.single,
        multi=found.multi,
        traced=traced,
        judged=[judge(case) for case in verdicts()],
        excluded=found.excluded,
        excluded_multi=found.excluded_multi,
        peers=read_peers(),
        versions=f"ftadvise {ftadvise.__version__}.",
    )
    text = report.page(results)
    if options.print or options.only:
        print(text)
        return 0
    pairs = [("analytic", each) for each in (*found.single, *found.multi)] + [("traced", each) for each in traced]
    table.write_rows(ROOT / "benchmarks" / "results" / "accuracy.csv", pairs, [*found.excluded, *found.excluded_multi])
    (ROOT / "docs" / "accuracy.md").write_text(text, encoding="utf-8")
    try:
        scatter.draw(ROOT / "docs" / "accuracy.svg", [*found.single, *found.multi])
    except ImportError:
        print("matplotlib is not installed: docs/accuracy.svg is left as it is", file=sys.stderr)
    print(text.split("## One GPU, settings fully known")[0])
    return 0


def _of(rows: Sequence[Case | Excluded], only: str) -> list[Case | Excluded]:
    return [row for row in rows if only.lower() in row.source.lower()]


if __name__ == "__main__":
    raise SystemExit(main())
