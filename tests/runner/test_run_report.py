"""The report survives its file, and its comparison adds up."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.estimator.estimate_types import Components
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError, PredictionMissedError
from ftadvise.runner.report import Answer, RunReport, comparison_rows, fail_on_miss, read_report, write_report

NAMES = [field.name for field in dataclasses.fields(Components)]


def _side(components: Components, *, reserved: int | None, used: int | None) -> dict[str, Any]:
    return {
        "peak_allocated_bytes": components.allocated_bytes,
        "peak_reserved_bytes": reserved,
        "device_used_bytes": used,
        "components": dataclasses.asdict(components),
    }


def _report(predicted: Components, measured: Components, **changes: Any) -> RunReport:
    report = RunReport(
        created="2026-01-01T00:00:00+00:00",
        versions={"torch": "2.13.0"},
        hardware={"ram_bytes": 5},
        model={"id": "org/model", "parameters": 1, "weights": "pretrained"},
        plan={"schema": "ftadvise.plan-file/1"},
        recipe=Recipe().to_dict(),
        data={"path": "数据.jsonl"},
        predicted={"memory": {}},
        predicted_at_measured={"memory": _side(predicted, reserved=7, used=8)},
        batch={"sequences": 1, "length": 2, "masked": False},
        measured=_side(measured, reserved=None, used=9) | {"peak_phase": "backward"},
        steps=2,
        losses=((1, 2.5), (2, None)),
        tokens_per_second=None,
        seconds_per_step=1.5,
        total_seconds=3.0,
        answer=Answer("什么?", "a", "b"),
        notes=("one",),
    )
    return dataclasses.replace(report, **changes)


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    report = _report(Components(weights=5), Components(weights=4))
    path = write_report(tmp_path, report)
    assert read_report(tmp_path) == report
    assert json.loads(path.read_text(encoding="utf-8"))["schema"] == "ftadvise.report/1"
    assert report.seed == 42


@given(st.lists(st.integers(0, 1 << 45), min_size=18, max_size=18))
def test_the_rows_add_up_to_the_totals(sizes: list[int]) -> None:
    predicted, measured = (Components(**dict(zip(NAMES, part, strict=True))) for part in (sizes[:9], sizes[9:]))
    rows = comparison_rows(_report(predicted, measured))
    parts, totals = [row for row in rows if not row.is_total], [row for row in rows if row.is_total]
    assert [row.name for row in totals] == ["total allocated", "reserved", "device used"]
    assert sum(row.predicted_bytes or 0 for row in parts) == totals[0].predicted_bytes == predicted.allocated_bytes
    assert sum(row.measured_bytes or 0 for row in parts) == totals[0].measured_bytes == measured.allocated_bytes
    for row in rows:
        if row.error_percent is not None:
            assert row.error_bytes == pytest.approx(row.error_percent * (row.measured_bytes or 0) / 100)


def test_the_rows_are_the_ones_people_look_for() -> None:
    rows = comparison_rows(_report(Components(weights=5), Components(weights=4)))
    assert [row.name for row in rows] == [
        "weights",
        "quantisation constants",
        "adapters + optimizer",
        "gradients",
        "activations",
        "loss",
        "total allocated",
        "reserved",
        "device used",
    ]
    weights, reserved, used = rows[0], rows[-2], rows[-1]
    assert (weights.error_bytes, weights.error_percent) == (1, 25.0)
    assert (reserved.measured_bytes, reserved.error_bytes, reserved.error_percent) == (None, None, None)
    assert used.error_bytes == -1


def test_a_workspace_is_shown_where_there_is_one() -> None:
    rows = comparison_rows(_report(Components(weights=5), Components(weights=4, workspace=1)))
    assert "workspace" in [row.name for row in rows]


@pytest.mark.parametrize(
    ("predicted", "limit", "missed"), [(105, 5, False), (95, 5, False), (106, 5, True), (94, 5, True), (500, 400, False)]
)
def test_a_miss_fails_only_beyond_the_limit(predicted: int, limit: float, missed: bool) -> None:
    report = _report(Components(weights=predicted), Components(weights=100))
    if not missed:
        fail_on_miss(report, limit)
        return
    with pytest.raises(PredictionMissedError, match="more than 5 %") as caught:
        fail_on_miss(report, limit)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": "ftadvise.report/9"}', '{"schema": "ftadvise.report/1"}', "[" * 100_000])
def test_a_broken_report_is_an_input_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(InputError):
        read_report(tmp_path)


def test_no_report_says_whether_a_run_is_unfinished(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no run"):
        read_report(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match="has not finished") as caught:
        read_report(tmp_path)
    assert "--resume" in str(caught.value.hint)
