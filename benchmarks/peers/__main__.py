"""Public memory estimators on the published measurements: results/peers.csv and a table of their errors.

Each tool of tools.yaml is installed, pinned, into an environment of its own, and asked about every row of data/memory_measurements.csv
through its adapter in this folder. One tool's failure is noted in its rows and never stops the others.

Columns of the result: `predicted_gib` is defined like the row's `peak_mem_gib_norm` (the adapters say which part of a tool's breakdown
that is), `predicted_device_gib` like nvidia-smi, `headline_gib` is the total that the tool shows; `note` says why there is no prediction,
or which setting could not be handed over.

Run: python -m benchmarks.peers (`make bench-peers`); the package index is needed once, the hub never.
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.peers.case import Case, case_from_row
from benchmarks.peers.shapes import shape_of
from benchmarks.peers.summary import reasons, table
from benchmarks.peers.tools import ROOT, Tool, ToolError, ask, install, read_tools

_BENCHMARKS = ROOT / "benchmarks"
_ROWS = _BENCHMARKS / "data" / "memory_measurements.csv"
_COLUMNS = ("id", "tool", "version", "predicted_gib", "predicted_device_gib", "headline_gib", "note")


def main() -> None:
    """Installs, asks, writes, prints; exits with 1 when no tool answered."""
    parser = argparse.ArgumentParser(description="Published measurements through public memory estimators.")
    parser.add_argument("--environments", type=Path, default=ROOT / ".venv-peers", help="folder for one environment per tool")
    parser.add_argument("--out", type=Path, default=_BENCHMARKS / "results" / "peers.csv")
    parser.add_argument("--tools", nargs="*", help="packages to run (all)")
    options = parser.parse_args()

    with _ROWS.open(newline="", encoding="utf-8") as file:
        measurements = list(csv.DictReader(file))
    cases = [case_from_row(row, shape_of(row["model"])) for row in measurements]
    answers: list[dict[str, str]] = []
    failed = []
    tools = [tool for tool in read_tools() if not options.tools or tool.package in options.tools]
    for tool in tools:
        print(f"{tool.requirement} ...", file=sys.stderr, flush=True)
        try:
            answers += answer_rows(tool, cases, options.environments)
        except ToolError as error:
            print(f"  {error}", file=sys.stderr)
            failed.append(tool)
            answers += [line(row["id"], tool, tool.version, {"note": str(error)}) for row in measurements]
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(answers)
    print(table(measurements, answers, {case.id for case in cases if case.plain}))
    print(reasons(answers))
    sys.exit(1 if len(failed) == len(tools) else 0)


def answer_rows(tool: Tool, cases: list[Case], environments: Path) -> list[dict[str, str]]:
    """The tool's line for every row.

    Raises:
        ToolError: the tool cannot be installed or run.
    """
    found = ask(tool, install(tool, environments), [asdict(case) for case in cases])
    return [line(case.id, tool, found["version"], given) for case, given in zip(cases, found["answers"], strict=True)]


def line(row_id: str, tool: Tool, version: str, given: dict[str, Any]) -> dict[str, str]:
    """A row of the result; figures that the tool did not give stay empty."""
    figures = {column: f"{given[column]:.3f}" if column in given else "" for column in _COLUMNS if column.endswith("_gib")}
    return {"id": row_id, "tool": tool.package, "version": version, **figures, "note": given["note"]}


if __name__ == "__main__":
    main()
