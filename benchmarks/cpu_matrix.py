"""Metered real CPU training steps of the whole matrix, many cases per process (importing the libraries costs more than training).

Run: python benchmarks/cpu_matrix.py [--only TEXT] [--list] [--live FOLDER]
Writes benchmarks/results/cpu_matrix.csv: of each case the recipe, the model's config.json, and in bytes of live tensors the peak of
each phase, the components at the peak and the moments within a step. With --only, rows of that CSV are replaced.
"""

from __future__ import annotations

import argparse
import csv
import gc
import importlib.metadata
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from matrix import cpu_cases
from training_case import Case, build, rows_of, write_config

RESULTS = Path(__file__).parent / "results" / "cpu_matrix.csv"
LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes")
PHASES = ("forward", "backward", "optimizer_step", "evaluation")


def meter_case(case: Case) -> dict[str, Any]:
    """Train the case for its steps, then evaluate one batch, under the runner's storage meter.

    Returns bytes: "phases" name -> peak, "components" at the largest of them, "moments" "phase/label" -> peak and "live"
    "phase/label" -> [(label, operation, bytes), ...] of every storage alive at that moment.
    """
    from datasets import Dataset

    from ftadvise.runner.load_model import load_model
    from ftadvise.runner.meter import Meter, MeterCallback, _optimizer_tensors
    from ftadvise.runner.quiet import quiet_libraries
    from ftadvise.runner.rehearse import random_checkpoint

    _settle()
    with tempfile.TemporaryDirectory() as scratch, quiet_libraries():
        folder = Path(scratch)
        write_config(case, folder)
        with random_checkpoint(folder, case.recipe, folder) as weights:
            model = load_model(weights, case.recipe, "cpu")
        trainer = build(case, model, "cpu", folder / "checkpoints")
        meter = Meter(trainer.model, "cpu")
        trainer.add_callback(MeterCallback(meter))
        trainer.train()
        evaluation = Meter(trainer.model, "cpu")
        assert evaluation._recorder is not None and meter._recorder is not None  # noqa: S101, PT018 - the CPU always has one
        evaluation._recorder.adopt(_optimizer_tensors(trainer.optimizer), "optimizer_state")
        vocab_size = trainer.model.config.get_text_config().vocab_size
        rows = rows_of(case, vocab_size)[: case.recipe.micro_batch]
        trainer.callback_handler.callbacks = []
        trainer.args.per_device_eval_batch_size = case.recipe.micro_batch
        with evaluation.step(lambda: trainer.optimizer):
            trainer.evaluate(_prepared(trainer, Dataset.from_list(rows), case))
    measured = meter.result()
    recorder = meter._recorder
    moments = {f"{phase}/{label}": moment for (phase, label), moment in recorder.peaks_by_label().items()}
    peak_name, peak = max(moments.items(), key=lambda item: item[1].total_bytes)
    phases = {phase: moment.total_bytes for phase, moment in recorder.peaks().items()}
    phases["evaluation"] = max(moment.total_bytes for moment in evaluation._recorder.peaks().values())
    return {
        "phases": phases,
        "peak": {"moment": peak_name, "operation": peak.operation, "bytes": peak.total_bytes},
        "components": peak.by_label,
        "moments": {name: moment.total_bytes for name, moment in moments.items()},
        "moment_components": {name: moment.by_label for name, moment in moments.items()},
        "live": {name: recorder.live_at_peak(*name.split("/")) for name in moments},
        "batch": measured.padded_tokens,
        "trainable": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
    }


def _settle() -> None:
    """Free the storages of the previous case that only a cycle keeps.

    The trainer collects garbage too; half a second each time, unless what the imported libraries made is set aside.
    """
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import trl  # noqa: F401

    gc.collect()
    if gc.get_freeze_count() == 0:
        gc.freeze()


def _prepared(trainer: Any, dataset: Any, case: Case) -> Any:
    """The evaluation rows as the trainer wants them: SFTTrainer prepared its training rows when it was built, so it gets some of those."""
    if case.stack != "trl":
        return dataset
    return trainer.train_dataset.select(range(min(len(trainer.train_dataset), case.recipe.micro_batch)))


def row_of(case: Case, measured: dict[str, Any], seconds: float) -> dict[str, Any]:
    """One line of the CSV."""
    return {
        "case": case.name,
        "status": "ok",
        "architecture": case.config["model_type"],
        "stack": case.stack,
        "padded": case.padded,
        "method": case.recipe.method,
        "quantization": case.recipe.quantization,
        "sequences": measured["batch"][0],
        "padded_length": measured["batch"][1],
        "trainable_parameters": measured["trainable"],
        **{f"{phase}_bytes": measured["phases"].get(phase, "") for phase in PHASES},
        "peak_bytes": measured["peak"]["bytes"],
        "peak_moment": measured["peak"]["moment"],
        "peak_operation": measured["peak"]["operation"],
        "peak_components": json.dumps(measured["components"], sort_keys=True),
        "moments": json.dumps(measured["moments"], sort_keys=True),
        "recipe": json.dumps(case.recipe.to_dict()),
        "config": json.dumps(case.config),
        "seconds": round(seconds, 2),
        "reason": "",
    }


def write_listing(folder: Path, case: Case, measured: dict[str, Any]) -> None:
    """What was alive at each moment, by size, into `folder`/<case>.txt."""
    lines = [case.name, json.dumps(case.recipe.to_dict()), json.dumps(case.config)]
    for name, live in measured["live"].items():
        lines.append(f"\n{name}: {measured['moments'][name]} bytes {json.dumps(measured['moment_components'][name])}")
        counts = Counter(live)
        ordered = sorted(counts.items(), key=lambda item: (item[0][0], -item[0][2] * item[1]))
        lines += [f"  {count:4d} x {size:10d}  {label:24s} {operation}" for (label, operation, size), count in ordered]
    folder.mkdir(parents=True, exist_ok=True)
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in case.name)
    (folder / f"{safe}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> int:
    """Meter the cases, write the CSV."""
    parser = argparse.ArgumentParser(description="metered CPU training steps of the whole matrix")
    parser.add_argument("--only", nargs="+", default=[""], help="cases whose name contains one of these texts")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument("--live", type=Path, help="also list what was alive at each moment, one file per case, in this folder")
    arguments = parser.parse_args()
    cases = [case for case in cpu_cases() if any(text in case.name for text in arguments.only)]
    if arguments.list:
        print("\n".join(case.name for case in cases))
        return 0
    import torch

    torch.set_num_threads(1)  # the models are too small for more
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    rows = read_rows() if arguments.only != [""] else {}
    for case in cases:
        started = time.perf_counter()
        try:
            measured = meter_case(case)
        except Exception as error:  # noqa: BLE001 - what cannot be trained is a result
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            row = {"case": case.name, "status": "failed", "architecture": case.config["model_type"], "stack": case.stack}
            row |= {"method": case.recipe.method, "quantization": case.recipe.quantization, "reason": reason}
            row |= {"recipe": json.dumps(case.recipe.to_dict()), "config": json.dumps(case.config)}
        else:
            row = row_of(case, measured, time.perf_counter() - started)
            if arguments.live:
                write_listing(arguments.live, case, measured)
        rows[case.name] = row | versions
        print(
            f"{case.name:50s} {row['status']:7s} {row.get('peak_bytes', ''):>12} {row.get('peak_moment', '')} {row['reason']}", flush=True
        )
        write_rows(rows)
    return 0


def read_rows() -> dict[str, dict[str, Any]]:
    """The rows of the CSV by case."""
    if not RESULTS.is_file():
        return {}
    with RESULTS.open(newline="", encoding="utf-8") as file:
        return {row["case"]: dict(row) for row in csv.DictReader(file)}


def write_rows(rows: dict[str, dict[str, Any]]) -> None:
    """The whole CSV, replaced at once."""
    fields = list(dict.fromkeys(key for row in rows.values() for key in row))
    part = RESULTS.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows.values())
    part.replace(RESULTS)


if __name__ == "__main__":
    sys.exit(main())
