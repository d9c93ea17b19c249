"""A GPU that other processes fill up: before the run it is refused with what is free, during the run it goes on with less."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from ftadvise import api
from ftadvise.estimator.plan_file import PlanFile
from ftadvise.profiles.errors import NothingFitsError
from ftadvise.profiles.hardware import GIB, Hardware
from ftadvise.profiles.probe import named_hardware
from ftadvise.runner import supervisor
from ftadvise.runner.attempt import Outcome, read_request, write_outcome
from ftadvise.runner.out_of_memory import out_of_memory


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Supervising needs none of the training libraries."""
    monkeypatch.setattr(supervisor, "check_installed", lambda: None)
    monkeypatch.setattr(supervisor, "check_supported", lambda *_: None)


@pytest.fixture(scope="module")
def plan() -> PlanFile:
    return api.plan_file_of(api.plan("Qwen/Qwen2.5-7B", gpu="RTX 4090"))


def _with_free(free_gib: float) -> Hardware:
    """The plan's GPU with so much memory left by other processes."""
    named = named_hardware("RTX 4090")
    return dataclasses.replace(named, gpus=(dataclasses.replace(named.gpus[0], free_bytes=int(free_gib * GIB)),), source="probed")


def test_a_gpu_that_was_filled_since_the_plan_was_made_is_told_before_anything_starts(plan: PlanFile, tmp_path: Path) -> None:
    assert supervisor.check_run(plan, hardware=_with_free(23.5), out_dir=tmp_path / "run") == plan.recipe
    with pytest.raises(NothingFitsError, match=r"needs about [\d.]+ GiB, 4\.00 GiB are free") as caught:
        supervisor.check_run(plan, hardware=_with_free(4), out_dir=tmp_path / "run")
    assert "ftadvise plan" in str(caught.value.hint)
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_fills_up_while_training_is_told_and_the_run_goes_on_with_less(plan: PlanFile, tmp_path: Path) -> None:
    recipe = plan.recipe.replace(micro_batch=4, gradient_accumulation=4)
    free_gib, asked, said = iter((1.25, 0.5, 6.0)), [], io.StringIO()

    def worker(path: Path, attempt: PlanFile) -> Outcome:
        """Takes as much as the micro batch needs, while another process takes and gives back memory."""
        asked.append((attempt.recipe.micro_batch, attempt.recipe.gradient_accumulation))
        needed, free = float(attempt.recipe.micro_batch), next(free_gib)
        outcome = Outcome("failed", "enough of this test", None, 2)
        if needed > free:
            words = f"Tried to allocate {needed:.2f} GiB. GPU 0 has a total capacity of 23.5 GiB of which {free:.2f} GiB is free."
            error = out_of_memory(attempt.recipe, words)
            outcome = Outcome("out_of_memory", str(error), error.hint, error.exit_code)
        assert read_request(path)[1] == attempt
        write_outcome(path.parent, outcome)
        return outcome

    with pytest.raises(Exception, match="enough of this test"):
        supervisor.run_plan(
            dataclasses.replace(plan, recipe=recipe),
            out_dir=tmp_path / "run",
            hardware=_with_free(23.5),
            start=worker,
            console=Console(file=said, width=400),
            force=True,
        )
    assert asked == [(4, 4), (2, 8), (1, 16)]
    assert "4.00 GiB asked for, 1.25 GiB free; going on with" in said.getvalue()
    assert "2.00 GiB asked for, 0.50 GiB free; going on with" in said.getvalue()
