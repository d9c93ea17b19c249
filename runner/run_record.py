"""What a finished run adds to this machine's calibration: its speed and peak beside what was predicted. Imports nothing heavy."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ftadvise.estimator.activations import Batch
from ftadvise.estimator.calibration import Device, RunKind, RunRecord, installed_version, rates_name
from ftadvise.estimator.calibration_store import load_calibration, store_run
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.speed.calibrated import calibration_is_off, rates_for
from ftadvise.estimator.stack import stack_of
from ftadvise.estimator.throughput import estimate_throughput
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.model_spec import ModelSpec

if TYPE_CHECKING:
    from rich.console import Console

    from ftadvise.runner.report import RunReport

LEAST_STEPS = 3
"""Fewer timed steps say little."""


def run_record(
    report: RunReport, spec: ModelSpec, hardware: Hardware, mean_batch: Batch, step_speeds: Sequence[float], kind: RunKind
) -> RunRecord | None:
    """The record of a run; None when too few steps were timed, its speed cannot be predicted, or nothing is to be recorded.

    Args:
        mean_batch: the micro batch of the timed steps at their mean length.
        step_speeds: padded tokens per second of each timed step; their median counts, so that a busy moment does not.
    """
    if calibration_is_off() or len(step_speeds) < LEAST_STEPS:
        return None
    device, rates = Device.of(hardware), rates_for(hardware)
    if device is None or rates is None:
        return None
    recipe, stack = Recipe.from_dict(report.recipe, where="report"), stack_of()
    predicted = estimate_throughput(spec, hardware, recipe, stack, batch=mean_batch, rates=rates)  # with rates: uncorrected by runs
    if predicted is None:
        return None
    return RunRecord(
        device=device,
        created=report.created,
        kind=kind,
        model=report.model["id"],
        recipe=report.recipe,
        stack=stack.name,
        versions={name: version for name, version in report.versions.items() if name not in ("python", "os")},
        ftadvise=installed_version("ftadvise") or "",
        rates=rates_name(hardware, load_calibration()),
        predicted_tokens_per_second=predicted.tokens_per_second,
        measured_tokens_per_second=statistics.median(step_speeds),
        predicted_peak_bytes=int(report.predicted_at_measured["memory"]["peak_allocated_bytes"]),
        measured_peak_bytes=int(report.measured["peak_allocated_bytes"]),
        steps=len(step_speeds),
    )


def add_to_calibration(record: RunRecord | None, console: Console) -> None:
    """Store the record and say so; a store that cannot be written is a warning, never the end of a run."""
    if record is None:
        return
    try:
        store_run(record)
    except InputError as error:
        console.print(f"warning: the run is not added to the calibration: {error}", markup=False, highlight=False)
        return
    measured, predicted = record.measured_tokens_per_second, record.predicted_tokens_per_second
    console.print(
        f"added to this machine's calibration: {measured:,.0f} tokens/s, {measured / predicted:.2f} times the uncorrected prediction",
        markup=False,
        highlight=False,
    )
