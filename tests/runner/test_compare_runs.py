"""Runs side by side: what differed, what came of it, and whether the losses may be compared."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from finished_reports import FALL_BACKS, finished_report, several_ranks

from ftadvise.runner.compare import compare, figures, peak_bytes
from ftadvise.runner.report import RunReport


def _changed(report: RunReport, part: str, **values: Any) -> RunReport:
    return dataclasses.replace(report, **{part: {**getattr(report, part), **values}})


def test_only_what_differs_is_listed() -> None:
    one = finished_report()
    other = _changed(_changed(one, "recipe", rank=64), "versions", torch="2.14.0", trl="1.16")
    found = compare([("a", one), ("b", other)])
    assert dict(found.settings) == {"rank": (one.recipe["rank"], 64), "torch": ("2.13.0", "2.14.0"), "trl": (None, "1.16")}
    assert compare([("a", one), ("b", one), ("c", one)]).settings == ()


@pytest.mark.parametrize(
    ("part", "values", "comparable"),
    [
        ("recipe", {"learning_rate": 1e-5}, True),
        ("recipe", {"seq_len": 512}, False),
        ("data", {"sha256": "cd" * 32}, False),
        ("data", {"rows": 4000}, False),
        ("data", {"path": "elsewhere.jsonl"}, True),
        ("model", {"id": "other/model"}, False),
    ],
)
def test_losses_compare_only_over_the_same_tokens(part: str, values: dict[str, Any], comparable: bool) -> None:
    one = finished_report()
    assert compare([("a", one), ("b", _changed(one, part, **values))]).comparable_losses is comparable


def test_the_figures_are_those_of_the_run() -> None:
    report = finished_report(steps=50, attempts=FALL_BACKS)
    found = figures(report)
    losses = [loss for _, loss in report.losses if loss is not None]
    assert found.final_loss == pytest.approx(math.fsum(losses[-5:]) / 5)
    assert (found.first_loss, found.best_loss) == (losses[0], min(losses))
    assert found.best_evaluation == min(loss for _, loss in report.evaluations if loss is not None)
    assert (found.best_evaluation_step, found.best_evaluation) in report.evaluations
    assert (found.steps, found.attempts) == (50, 3)


@pytest.mark.parametrize(("steps", "last"), [(1, 1), (9, 1), (30, 3), (99, 9), (5000, 10)])
def test_the_final_loss_is_that_of_the_last_steps(steps: int, last: int) -> None:
    found = figures(finished_report(losses=tuple((step, float(step)) for step in range(1, steps + 1))))
    assert found.final_loss_steps == last
    assert found.final_loss == pytest.approx(steps - (last - 1) / 2)


def test_losses_that_are_not_numbers_do_not_count() -> None:
    found = figures(finished_report(losses=((1, None), (2, 3.0), (3, None), (4, 1.0)), evaluations=((4, None),)))
    assert (found.first_loss, found.final_loss, found.best_loss) == (3.0, 1.0, 1.0)
    assert found.final_evaluation is found.best_evaluation is None
    nothing = figures(finished_report(losses=(), evaluations=(), tokens_per_second=None))
    assert nothing.first_loss is nothing.final_loss is nothing.best_loss is None


def test_the_peak_is_that_of_the_worst_moment_and_rank() -> None:
    report = finished_report(training_peak=None)
    assert peak_bytes(report) == report.measured["device_used_bytes"]
    higher = report.measured["device_used_bytes"] + 5
    assert peak_bytes(dataclasses.replace(report, training_peak={"device_used_bytes": higher})) == higher
    ranks = several_ranks()
    assert peak_bytes(dataclasses.replace(report, ranks=ranks)) == max(each["measured"]["device_used_bytes"] for each in ranks)
    unknown = _changed(report, "measured", device_used_bytes=None)
    assert peak_bytes(unknown) is None


def test_the_document_is_json() -> None:
    document = compare([("a", finished_report()), ("b", finished_report(steps=30))]).to_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["schema"] == "ftadvise.comparison/1"
    assert [run["run"] for run in document["runs"]] == ["a", "b"]
    assert set(document) == {"schema", "runs", "settings", "comparable_losses"}
