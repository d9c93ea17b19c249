"""The trace, emulating the CPU, and the analytic model against the metered training steps of cpu_matrix.csv. Trains nothing.

Run: python benchmarks/cpu_compare.py [--analytic] [--only TEXT] [--worst N]
Prints the error of every phase and of the peak, worst cases last; exit code 1 when a peak is off by more than 1 %.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cpu_matrix import read_rows

from ftadvise.estimator.activations import Batch, batch_of
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.stack import stack_of
from ftadvise.profiles.hardware import Cpu, Hardware
from ftadvise.profiles.model_config import spec_from_config

LIMIT = 0.01
PHASES = ("forward", "backward", "optimizer_step", "evaluation")
Predict = Callable[[dict[str, Any], Recipe, str, Batch], dict[str, int]]
CPU = Hardware((), Cpu("any", 2, 2, supports_bf16=False, supports_amx=False), 16 << 30, 16 << 30, "named")


def traced_phases(config: dict[str, Any], recipe: Recipe, stack: str, batch: Batch) -> dict[str, int]:
    """Peak bytes of each phase and "peak" (of a training step), by the trace."""
    from ftadvise.estimator.trace import trace

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        spec = dataclasses.replace(spec_from_config(config, source="cpu_matrix"), local_path=folder)
        result = trace(spec, CPU, recipe, stack_of(stack), batch=batch, evaluation_batch=batch.sequences)
    phases = {phase: result.phases[phase] for phase in PHASES if phase in result.phases}
    return phases | {"peak": max(phases[phase] for phase in PHASES[:3])}


def analytic_phases(config: dict[str, Any], recipe: Recipe, stack: str, batch: Batch) -> dict[str, int]:
    """The same by the analytic model."""
    from ftadvise.estimator.memory import price_memory

    code = dataclasses.replace(stack_of(stack), eval_micro_batch=batch.sequences)  # what the meter evaluated
    # a name of its own for each model: profiles are kept by it
    priced = price_memory(spec_from_config(config, source=json.dumps(config)), CPU, recipe, code, batch=batch)
    phases = {phase: sum(priced.components(phase).values()) for phase in PHASES if phase in priced.phases()}
    return phases | {"peak": max(phases[phase] for phase in PHASES[:3])}


def measured_phases(row: dict[str, Any]) -> dict[str, int]:
    """The same of a row of the CSV."""
    phases = {phase: int(row[f"{phase}_bytes"]) for phase in PHASES if row[f"{phase}_bytes"]}
    return phases | {"peak": int(row["peak_bytes"])}


def errors(rows: list[dict[str, Any]], predict: Predict = traced_phases) -> Iterator[tuple[str, dict[str, float] | str]]:
    """Case name and, by phase, predicted / measured - 1; or why it could not be predicted."""
    for row in rows:
        recipe = Recipe.from_dict(json.loads(row["recipe"]))
        batch = Batch(int(row["sequences"]), int(row["padded_length"]), masked=row["padded"] == "True")
        if recipe.packing:  # the meter sees one long row, in which the sequences stand one after the other
            batch = batch_of(recipe, stack_of(row["stack"]))
        try:
            predicted = predict(json.loads(row["config"]), recipe, row["stack"], batch)
        except Exception as error:  # noqa: BLE001 - a comparison goes on with the next case
            yield row["case"], f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            continue
        measured = measured_phases(row)
        yield row["case"], {phase: predicted[phase] / measured[phase] - 1 for phase in measured if phase in predicted}


def main() -> int:
    """Compare and print."""
    parser = argparse.ArgumentParser(description="the trace against metered CPU training steps")
    parser.add_argument("--only", nargs="+", default=[""], help="cases whose name contains one of these texts")
    parser.add_argument("--worst", type=int, default=15, help="how many of the worst to repeat at the end (default 15)")
    parser.add_argument("--analytic", action="store_true", help="the analytic model instead of the trace")
    arguments = parser.parse_args()
    rows = [row for row in read_rows().values() if row["status"] == "ok" and any(text in row["case"] for text in arguments.only)]
    found: dict[str, dict[str, float]] = {}
    for name, result in errors(rows, analytic_phases if arguments.analytic else traced_phases):
        if isinstance(result, str):
            print(f"{name:52s} {result}", flush=True)
            continue
        found[name] = result
        print(f"{name:52s} {_line(result)}", flush=True)
    ordered = sorted(found, key=lambda name: abs(found[name]["peak"]))
    print(f"\n{len(found)} of {len(rows)} cases; worst peaks:")
    for name in ordered[-arguments.worst :]:
        print(f"{name:52s} {_line(found[name])}")
    return int(not found or abs(found[ordered[-1]]["peak"]) > LIMIT)


def _line(result: dict[str, float]) -> str:
    return "  ".join(f"{phase} {100 * error:+8.3f} %" for phase, error in result.items())


if __name__ == "__main__":
    sys.exit(main())
