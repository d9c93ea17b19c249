"""The report survives its file, and its comparison adds up."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.estimator.estimate_types import Components
from ftadvise.estimator.plan_file import PlanFile
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError, PredictionMissedError
from ftadvise.rendering.chinese import in_language
from ftadvise.runner.attempt import Outcome, Request, write_outcome, write_request, write_steps
from ftadvise.runner.report import Answer, RunReport, comparison_rows, fail_on_miss, rank_rows, read_report, write_report

NAMES = [field.name for field in dataclasses.fields(Components)]


def _side(components: Components, *, reserved: int | None, used: int | None) -> dict[str, Any]:
    return {
        "peak_allocated_bytes": components.allocated_bytes,
        "peak_reserved_bytes": reserved,
        "device_used_bytes": used,
        "peak_phase": "backward",
        "components": dataclasses.asdict(components),
    }


def _report(predicted: Components, measured: Components, **changes: Any) -> RunReport:
    report = RunReport(
        created="2026-01-01T00:00:00+00:00",
        versions={"torch": "2.13.0"},
        hardware={"gpus": [], "cpu": {"name": "some cpu"}, "ram_bytes": 5},
        model={"id": "org/model", "parameters": 1, "weights": "pretrained"},
        plan={"schema": "ftadvise.plan-file/1"},
        recipe=Recipe().to_dict(),
        data={"path": "数据.jsonl"},
        predicted={"memory": {}},
        predicted_at_measured={"memory": _side(predicted, reserved=7, used=8)},
        batch={"sequences": 1, "length": 2, "masked": False},
        measured=_side(measured, reserved=None, used=9) | {"definition": "counted"},
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
    assert not isinstance(read_report(tmp_path).losses, list)
    assert json.loads(path.read_text(encoding="utf-8"))["schema"] == "ftadvise.report/1"
    assert report.seed == 42


def test_what_a_run_went_through_survives_too(tmp_path: Path) -> None:
    measured = Components(weights=4)
    report = _report(
        Components(weights=5),
        measured,
        evaluations=((1, 2.0), (2, None)),
        timeline=((0, 0.0, None), (1, 1.5, 7)),
        attempts=({"number": 1, "status": "done", "from_step": 0, "to_step": 2, "message": "", "changes": {"rank": [8, 4]}},),
        ranks=({"rank": 0, "host": "here", "measured": _side(measured, reserved=None, used=9) | {"definition": "counted"}},),
        training_peak={"allocated_bytes": None, "reserved_bytes": None, "device_used_bytes": 11},
    )
    write_report(tmp_path, report)
    assert read_report(tmp_path) == report
    ((rank, host, rows),) = rank_rows(report)
    assert (rank, host) == (0, "here")
    assert rows == comparison_rows(report)


def test_a_report_of_an_older_version_is_readable(tmp_path: Path) -> None:
    report = _report(Components(weights=5), Components(weights=4))
    document = report.to_json()
    for name in ("evaluations", "timeline", "attempts", "ranks", "training_peak"):
        del document[name]
    (tmp_path / "report.json").write_text(json.dumps(document))
    assert read_report(tmp_path) == report


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("steps", -1, "steps"),
        ("steps", "many", "steps"),
        ("losses", [[1]], "losses.0"),
        ("losses", [[1, "x"]], "losses.0.1"),
        ("total_seconds", 1e300, "total_seconds"),
        ("hardware", {"gpus": {}}, "hardware"),
        ("measured", {"components": {}}, "measured"),
        ("predicted_at_measured", {}, "predicted_at_measured.memory"),
        ("recipe", {"rank": 0}, "recipe"),
        ("timeline", [[1, 2.0, -5]], "timeline.0.2"),
        ("ranks", [{"rank": 0}], "ranks.0"),
        ("attempts", [{"number": 1, "changes": {"rank": [1]}}], "attempts.0"),
        ("answer", {"prompt": 1}, "answer"),
        ("versions", {"a\x1b[2J": 3}, "versions"),
        ("surprise\x1b[2J", 1, "surprise"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(key: str, value: Any, named: str, tmp_path: Path) -> None:
    document = _report(Components(weights=5), Components(weights=4)).to_json()
    (tmp_path / "report.json").write_text(json.dumps({**document, key: value}))
    with pytest.raises(InputError) as caught:
        read_report(tmp_path)
    assert named in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "1e999", "9" * 5000])
def test_numbers_that_are_none_are_refused(constant: str, tmp_path: Path) -> None:
    document = json.dumps(_report(Components(weights=5), Components(weights=4)).to_json())
    (tmp_path / "report.json").write_text(document.replace('"total_seconds": 3.0', f'"total_seconds": {constant}'))
    with pytest.raises(InputError):
        read_report(tmp_path)


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
    with pytest.raises(InputError, match="has not finished, and trained nothing") as caught:
        read_report(tmp_path)
    assert caught.value.hint == f"ftadvise run PLAN --out {tmp_path}"


def _stopped(folder: Path, plan: PlanFile, outcome: Outcome | None) -> None:
    (folder / "run.json").write_text("{}")
    for number in (1, 2):
        request = Request(number, str(folder))
        write_request(request, plan)
        write_steps(request.folder, 3 * number - 3, 3 * number)
    if outcome is not None:
        write_outcome(request.folder, outcome)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (None, "killed"),
        (Outcome("interrupted", "stopped after step 6 of 9", None, 130), "stopped after step 6 of 9"),
        (Outcome("failed", "a\x1b[2Jb\nc", None, 1), "a\ufffd[2Jb c"),
    ],
)
def test_an_unfinished_run_says_how_far_it_came(
    outcome: Outcome | None, reason: str, tmp_path: Path, make_plan: Callable[..., PlanFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    _stopped(tmp_path, make_plan("org/model"), outcome)
    with pytest.raises(InputError) as caught:
        read_report(tmp_path)
    said = f"{tmp_path}: the run there has not finished: attempt 2 got to step 6 ({reason}); there is no checkpoint"
    assert str(caught.value) == said
    monkeypatch.setattr("ftadvise.runner.unfinished.last_checkpoint", lambda _folder: Path("checkpoint-5"))
    with pytest.raises(InputError, match="the last checkpoint is that of step 5") as caught:
        read_report(tmp_path)
    assert caught.value.hint == f"ftadvise run PLAN --out {tmp_path} --resume"
    assert in_language(str(caught.value), "zh").endswith("最后的检查点在第 5 步")


def test_a_run_under_way_is_waited_for(tmp_path: Path, make_plan: Callable[..., PlanFile]) -> None:
    _stopped(tmp_path, make_plan("org/model"), None)
    holder = "import sys, time; from pathlib import Path; from ftadvise.runner.run_lock import lock_run_folder\n"
    holder += "with lock_run_folder(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holder, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            with pytest.raises(InputError, match="under way, in attempt 2") as caught:
                read_report(tmp_path)
        finally:
            process.kill()
    assert caught.value.hint == "wait for it"
