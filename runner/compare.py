"""Runs side by side: the settings that differ, and what came of them. `ftadvise.comparison/1`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftadvise.runner.report import RunReport

COMPARISON_SCHEMA = "ftadvise.comparison/1"
LAST_STEPS = 10
"""Steps whose mean is the final loss, at most (a tenth of a shorter run): that of a single step depends on which rows it held."""
_DATA = ("path", "sha256", "rows", "eval_rows", "truncated")


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of a run; None where a figure does not exist. Losses are means per learned token, in nats.

    `final_loss` is the mean of the last `final_loss_steps` steps.
    `peak_bytes` is the most memory on the device over the whole run, of the rank that took the most; in older reports of the metered steps.
    """

    steps: int
    attempts: int
    first_loss: float | None
    final_loss: float | None
    final_loss_steps: int
    best_loss: float | None
    final_evaluation: float | None
    best_evaluation: float | None
    best_evaluation_step: int | None
    tokens_per_second: float | None
    peak_bytes: int | None
    predicted_peak_bytes: int | None
    total_seconds: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two or more runs by name, in the order given.

    `settings` holds (name, the value of each run) of what differs; a value is None where a run does not have the setting.
    `comparable_losses` says whether all learned the same tokens: the same model (tokenizer), data and sequence length.
    """

    names: tuple[str, ...]
    models: tuple[str, ...]
    settings: tuple[tuple[str, tuple[Any, ...]], ...]
    figures: tuple[Figures, ...]
    comparable_losses: bool

    def to_json(self) -> dict[str, Any]:
        """The document of `ftadvise report A B --json`."""
        runs = zip(self.names, self.models, self.figures, strict=True)
        return {
            "schema": COMPARISON_SCHEMA,
            "runs": [{"run": name, "model": model, **dataclasses.asdict(found)} for name, model, found in runs],
            "settings": {name: list(values) for name, values in self.settings},
            "comparable_losses": self.comparable_losses,
        }


def compare(runs: Sequence[tuple[str, RunReport]]) -> Comparison:
    """The runs, each with its name, side by side."""
    reports = [report for _, report in runs]
    described = [_settings(report) for report in reports]
    names = list(dict.fromkeys(name for each in described for name in each))
    rows = ((name, tuple(each.get(name) for each in described)) for name in names)
    return Comparison(
        names=tuple(name for name, _ in runs),
        models=tuple(str(report.model["id"]) for report in reports),
        settings=tuple(row for row in rows if any(value != row[1][0] for value in row[1])),
        figures=tuple(figures(report) for report in reports),
        comparable_losses=len({_fingerprint(report) for report in reports}) == 1,
    )


def figures(report: RunReport) -> Figures:
    """What came of one run."""
    losses = [loss for _, loss in report.losses if loss is not None and math.isfinite(loss)]
    evaluations = [(loss, step) for step, loss in report.evaluations if loss is not None and math.isfinite(loss)]
    best = min(evaluations, default=None)
    last = losses[-min(LAST_STEPS, max(1, len(losses) // 10)) :]
    return Figures(
        steps=report.steps,
        attempts=max(1, len(report.attempts)),
        first_loss=losses[0] if losses else None,
        final_loss=sum(last) / len(last) if last else None,
        final_loss_steps=len(last),
        best_loss=min(losses, default=None),
        final_evaluation=evaluations[-1][0] if evaluations else None,
        best_evaluation=best[0] if best else None,
        best_evaluation_step=best[1] if best else None,
        tokens_per_second=report.tokens_per_second,
        peak_bytes=peak_bytes(report),
        predicted_peak_bytes=report.predicted_at_measured["memory"]["device_used_bytes"],
        total_seconds=report.total_seconds,
    )


def peak_bytes(report: RunReport) -> int | None:
    """The most memory that the run took on a device; None where nobody could say."""
    known = [(report.training_peak or {}).get("device_used_bytes"), report.measured["device_used_bytes"]]
    known += [rank["measured"]["device_used_bytes"] for rank in report.ranks]
    return max((size for size in known if size is not None), default=None)


def _settings(report: RunReport) -> dict[str, Any]:
    """What a run was given: model, data, recipe, machine, versions."""
    gpus = [gpu["name"] for gpu in report.hardware["gpus"]]
    found: dict[str, Any] = {"model": report.model["id"], "weights": report.model.get("weights")}
    found |= report.recipe
    found |= {f"data {name}": report.data.get(name) for name in _DATA}
    found["device"] = f"{len(gpus)} x {gpus[0]}" if len(gpus) > 1 else gpus[0] if gpus else report.hardware["cpu"]["name"]
    return found | dict(report.versions)


def _fingerprint(report: RunReport) -> str:
    data: Mapping[str, Any] = report.data
    return repr((report.model["id"], report.recipe.get("seq_len"), *(data.get(name) for name in ("sha256", "rows", "eval_rows"))))
