"""The supervisor without workers: attempts, fall-backs, what is kept and what is refused. What a worker leaves is written by the test."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_runs import made_report
from rich.console import Console

from ftadvise.estimator.plan_file import PlanFile
from ftadvise.profiles.errors import (
    FtadviseError,
    InputError,
    InterruptedRunError,
    NothingFitsError,
    OutOfMemoryError,
    SaveFailedError,
    TrainingDivergedError,
)
from ftadvise.profiles.hardware import Hardware
from ftadvise.runner import supervisor
from ftadvise.runner.attempt import Outcome, read_request, write_outcome, write_steps
from ftadvise.runner.checkpoints import checkpoints_of, write_manifest
from ftadvise.runner.fallback import next_recipe
from ftadvise.runner.report import RunReport, read_report, write_report

MakePlan = Callable[..., PlanFile]
OUT_OF_MEMORY = Outcome("out_of_memory", "out of memory: 2.00 GiB asked for, 1.00 GiB free", "lower something", 5)


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Supervising needs none of the training libraries."""
    monkeypatch.setattr(supervisor, "check_installed", lambda: None)
    monkeypatch.setattr(supervisor, "check_supported", lambda *_: None)


class Workers:
    """Stands in for the processes: does as it is told, one outcome per attempt, and remembers what was asked."""

    def __init__(self, *outcomes: Outcome, checkpoint_at: int | None = None) -> None:
        self.outcomes = list(outcomes)
        self.checkpoint_at = checkpoint_at
        self.asked: list[dict[str, Any]] = []

    def __call__(self, path: Path, plan: PlanFile) -> Outcome:
        request, same = read_request(path)
        assert same == plan
        self.asked.append({"resume": request.resume, "recipe": plan.recipe, "changes": request.changes})
        outcome = self.outcomes.pop(0)
        write_outcome(path.parent, outcome)
        write_steps(path.parent, len(self.asked) - 1, len(self.asked))
        out_dir = Path(request.out_dir)
        if self.checkpoint_at is not None:
            checkpoint = checkpoints_of(out_dir) / f"checkpoint-{self.checkpoint_at}"
            if not checkpoint.exists():
                checkpoint.mkdir(parents=True)
                (checkpoint / "trainer_state.json").write_text("{}")
                write_manifest(checkpoint, step=self.checkpoint_at)
        if outcome.status == "done":
            write_report(path.parent, dataclasses.replace(made_report(path), recipe=plan.recipe.to_dict()))
        return outcome


@pytest.fixture
def run(hardware: Hardware, tmp_path: Path) -> Callable[..., RunReport]:
    def start(plan: PlanFile, workers: Workers, **options: Any) -> RunReport:
        console = options.pop("console", Console(file=io.StringIO()))
        return supervisor.run_plan(plan, out_dir=tmp_path / "run", hardware=hardware, start=workers, console=console, **options)

    return start


def test_out_of_memory_goes_on_with_less_until_it_fits(run: Callable[..., RunReport], make_plan: MakePlan, tmp_path: Path) -> None:
    said = io.StringIO()
    workers = Workers(OUT_OF_MEMORY, OUT_OF_MEMORY, OUT_OF_MEMORY, Outcome("done"), checkpoint_at=5)
    plan = make_plan("org/unknown", micro_batch=4, gradient_accumulation=3, gradient_checkpointing=False)
    report = run(plan, workers, console=Console(file=said, width=400))
    shapes = [(a["recipe"].micro_batch, a["recipe"].gradient_accumulation, a["recipe"].gradient_checkpointing) for a in workers.asked]
    assert shapes == [(4, 3, False), (2, 6, False), (1, 12, False), (1, 12, True)]
    assert [asked["resume"] for asked in workers.asked] == [False, True, True, True], "from the last checkpoint"
    assert "attempt 1: out of memory: 2.00 GiB asked for, 1.00 GiB free; going on with micro_batch 4 -> 2" in said.getvalue()
    assert [attempt["status"] for attempt in report.attempts] == ["out_of_memory"] * 3 + ["done"]
    assert report.attempts[1]["changes"] == {"micro_batch": [4, 2], "gradient_accumulation": [3, 6]}
    assert (report.attempts[0]["changes"], report.attempts[3]["from_step"]) == ({}, 3)
    assert report.plan == plan.to_dict(), "the plan as the user wrote it"
    assert read_report(tmp_path / "run") == report
    assert not checkpoints_of(tmp_path / "run").exists()


def test_without_fallback_out_of_memory_ends_the_run(run: Callable[..., RunReport], make_plan: MakePlan, tmp_path: Path) -> None:
    workers = Workers(OUT_OF_MEMORY)
    with pytest.raises(OutOfMemoryError, match=r"2\.00 GiB asked for") as caught:
        run(make_plan("org/unknown", micro_batch=4), workers, fallback=False)
    assert (caught.value.exit_code, caught.value.hint, len(workers.asked)) == (5, "lower something", 1)
    assert not (tmp_path / "run" / "report.json").exists()


def test_when_nothing_is_left_to_lower_the_error_says_so(run: Callable[..., RunReport], make_plan: MakePlan) -> None:
    workers = Workers(OUT_OF_MEMORY)
    with pytest.raises(OutOfMemoryError):
        run(make_plan("org/unknown", micro_batch=1, gradient_checkpointing=True), workers)
    assert len(workers.asked) == 1


def test_a_resumed_run_keeps_the_fall_backs_it_has_taken(run: Callable[..., RunReport], make_plan: MakePlan) -> None:
    plan = make_plan("org/unknown", micro_batch=4, gradient_accumulation=1)
    with pytest.raises(InterruptedRunError):
        run(plan, Workers(OUT_OF_MEMORY, Outcome("interrupted", "stopped after step 5 of 9", None, 130), checkpoint_at=5))
    again = Workers(Outcome("done"))
    report = run(plan, again, resume=True)
    assert (again.asked[0]["recipe"].micro_batch, again.asked[0]["recipe"].gradient_accumulation) == (2, 2)
    assert again.asked[0]["resume"]
    assert [attempt["status"] for attempt in report.attempts] == ["out_of_memory", "interrupted", "done"]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1, FtadviseError),
        (2, InputError),
        (5, OutOfMemoryError),
        (6, TrainingDivergedError),
        (7, SaveFailedError),
        (130, InterruptedRunError),
    ],
)
def test_every_outcome_comes_back_as_the_error_it_was(run: Callable[..., RunReport], make_plan: MakePlan, code: int, kind: type) -> None:
    status: Any = {5: "out_of_memory", 130: "interrupted"}.get(code, "failed")
    with pytest.raises(FtadviseError, match="what happened") as caught:
        run(make_plan("org/unknown"), Workers(Outcome(status, "what happened", "what to do", code)), fallback=False)
    assert type(caught.value) is kind
    assert caught.value.hint == "what to do"


def test_a_run_that_never_got_anywhere_leaves_nothing(run: Callable[..., RunReport], make_plan: MakePlan, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        run(make_plan("org/unknown"), Workers(Outcome("failed", "no weights", None, 2)))
    assert not (tmp_path / "run").exists()


def test_what_cannot_fit_is_refused_unless_forced(
    run: Callable[..., RunReport], make_plan: MakePlan, hardware: Hardware, tmp_path: Path
) -> None:
    plan = make_plan("meta-llama/Llama-3.1-8B", method="full", compute_dtype="fp32")
    workers = Workers(Outcome("done"))
    with pytest.raises(NothingFitsError, match="GiB are free") as caught:
        run(plan, workers)
    assert "--force" in str(caught.value.hint)
    assert not workers.asked
    assert not (tmp_path / "run").exists()
    run(plan, workers, force=True)
    assert len(workers.asked) == 1


def test_falling_back_never_changes_what_a_step_learns(make_plan: MakePlan) -> None:
    for micro_batch in range(1, 40):
        recipe = make_plan("m", micro_batch=micro_batch, gradient_accumulation=3, gradient_checkpointing=False).recipe
        steps = 0
        while (smaller := next_recipe(recipe)) is not None:
            assert smaller.recipe.sequences_per_step == recipe.sequences_per_step
            assert smaller.recipe.micro_batch < recipe.micro_batch or smaller.recipe.gradient_checkpointing
            recipe, steps = smaller.recipe, steps + 1
            assert steps < 10
        assert (recipe.micro_batch, recipe.gradient_checkpointing) == (1, True)


def test_prefix_tuning_never_falls_back_to_checkpointing(make_plan: MakePlan) -> None:
    assert next_recipe(make_plan("m", method="prefix", micro_batch=1).recipe) is None


@pytest.mark.parametrize("content", ["", "[]", '{"number": "x"}', "{" * 1000, '{"status": "splendid"}'])
def test_a_broken_outcome_is_no_outcome(tmp_path: Path, content: str) -> None:
    from ftadvise.runner.attempt import read_outcome, read_steps

    (tmp_path / "outcome.json").write_text(content)
    (tmp_path / "steps.json").write_text(content)
    assert read_outcome(tmp_path) is None
    assert read_steps(tmp_path) == (0, 0)
    write_outcome(tmp_path, Outcome("done"))
    assert read_outcome(tmp_path) == Outcome("done")
    assert json.loads((tmp_path / "outcome.json").read_text())["status"] == "done"
