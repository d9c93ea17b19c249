"""A whole run that is killed anywhere leaves nothing half-written under a final name, and goes on to the same result."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from file_events import FileEvents, in_fork, kill_myself

from ftadvise.estimator.plan_file import PlanFile
from ftadvise.runner.checkpoints import all_checkpoints, damage
from ftadvise.runner.durable import NEW

pytest.importorskip("torch")
pytestmark = [pytest.mark.train, pytest.mark.skipif(not hasattr(os, "fork"), reason="a killed child process is a POSIX matter")]

RECIPE = {"max_steps": 4, "dropout": 0.1, "gradient_accumulation": 1}
ADAPTER = "adapter/adapter_model.safetensors"


@pytest.fixture
def plan(tmp_path: Path, tiny_model: Path, make_plan: Callable[..., PlanFile]) -> PlanFile:
    rows = [{"instruction": f"What is {n} plus one?", "output": f"The answer is {n + 1}."} for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return make_plan(tiny_model, tmp_path / "rows.jsonl", **RECIPE)


def _kill_and_go_on(plan: PlanFile, run: Path, run_here: Callable[..., Any], prefix: str, moment: int) -> tuple[int, Any]:
    """The exit code of a run killed at the moment-th touch of a file that begins with `prefix`, and the report of the one that went on."""

    def work() -> None:
        sys.addaudithook(FileEvents(run / prefix, moment, kill_myself).hook)
        run_here(plan, run)

    code = in_fork(work)
    assert all(damage(path) is None for path in all_checkpoints(run))
    for name in ("run.json", "report.json"):
        assert not (run / name).exists() or json.loads((run / name).read_text(encoding="utf-8"))
    if (run / "adapter").exists():
        assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "README.md"} <= {
            path.name for path in (run / "adapter").iterdir()
        }
    if code == 0:
        return code, None
    report = run_here(plan, run, resume=(run / "run.json").exists())
    assert not list(run.glob(f"{NEW}*"))
    return code, report


@pytest.mark.parametrize(
    ("prefix", "moment"),
    [
        pytest.param(f"{NEW}adapter", 4, id="the adapter"),
        pytest.param("attempts", 3, id="data preparation", marks=pytest.mark.long),
        pytest.param(f"checkpoints/{NEW}checkpoint-2", 3, id="a checkpoint", marks=pytest.mark.long),
        pytest.param("", 1, id="the very beginning", marks=pytest.mark.long),
    ],
)
def test_killed_and_resumed_it_is_the_same_run(
    plan: PlanFile, tmp_path: Path, run_here: Callable[..., Any], prefix: str, moment: int
) -> None:
    whole = run_here(plan, tmp_path / "whole")
    code, report = _kill_and_go_on(plan, tmp_path / "run", run_here, prefix, moment)
    assert code == -signal.SIGKILL
    assert report.losses == whole.losses
    assert (tmp_path / "run" / ADAPTER).read_bytes() == (tmp_path / "whole" / ADAPTER).read_bytes()


@pytest.mark.long
def test_killed_at_many_moments_of_a_run(plan: PlanFile, tmp_path: Path, run_here: Callable[..., Any]) -> None:
    whole = run_here(plan, tmp_path / "whole")
    killed = 0
    for moment in range(2, 400, 23):
        run = tmp_path / str(moment)
        code, report = _kill_and_go_on(plan, run, run_here, "", moment)
        if code == 0:
            break
        killed += 1
        assert report.losses == whole.losses, moment
        assert (run / ADAPTER).read_bytes() == (tmp_path / "whole" / ADAPTER).read_bytes(), moment
    assert killed > 3
