"""Two processes over gloo: DDP and FSDP2 train what one process trains, per-rank memory is as predicted, a dead rank costs nothing."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import psutil  # noqa: E402
from many_processes import losses, memory_error, trained, when_saved, worker  # noqa: E402
from rich.console import Console  # noqa: E402

from ftadvise.estimator.plan_file import PlanFile  # noqa: E402
from ftadvise.profiles.errors import FtadviseError  # noqa: E402
from ftadvise.profiles.hardware import Hardware  # noqa: E402
from ftadvise.runner.checkpoints import last_checkpoint  # noqa: E402
from ftadvise.runner.launch import Launch, read_failures  # noqa: E402
from ftadvise.runner.report import RunReport  # noqa: E402
from ftadvise.runner.supervisor import in_this_process, run_plan  # noqa: E402

pytestmark = pytest.mark.train
MakePlan = Callable[..., PlanFile]
RunMany = Callable[..., RunReport]
Alone = tuple[list[float], dict[str, Any]]
SAME = {"dropout": 0.0, "max_steps": 5}
"""Two processes of one micro batch see, step by step, what one process sees in two."""
TWO, ONE = {"gradient_accumulation": 1, **SAME}, {"gradient_accumulation": 2, **SAME}


@pytest.fixture(scope="module")
def alone(tiny_model: Path, hardware: Hardware, make_plan: MakePlan, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """One process, in which every step takes the micro batches of both."""
    folder, console = tmp_path_factory.mktemp("alone") / "run", Console(file=io.StringIO())
    start = in_this_process(hardware, console)
    report = run_plan(make_plan(tiny_model, **ONE), out_dir=folder, hardware=hardware, console=console, start=start)
    return losses(report), trained(folder)


def _same_weights(folder: Path, alone: Alone) -> None:
    found = trained(folder)
    assert found.keys() == alone[1].keys()
    for name, weight in found.items():
        assert torch.allclose(weight, alone[1][name], atol=1e-5), name


def test_two_ddp_processes_train_like_one_with_twice_the_accumulation(
    tiny_model: Path, make_plan: MakePlan, run_many: RunMany, alone: Alone, tmp_path: Path
) -> None:
    report = run_many(make_plan(tiny_model, sharding="ddp", **TWO), tmp_path / "run", Launch(2))
    assert losses(report) == pytest.approx(alone[0], abs=1e-5)
    _same_weights(tmp_path / "run", alone)
    assert [rank["rank"] for rank in report.ranks] == [0, 1]
    assert memory_error(report) < 0.01


def test_a_killed_rank_is_named_and_the_run_goes_on_from_its_checkpoint(
    tiny_model: Path, make_plan: MakePlan, run_many: RunMany, alone: Alone, tmp_path: Path
) -> None:
    plan, folder = make_plan(tiny_model, sharding="fsdp", **TWO), tmp_path / "run"
    with when_saved(folder, psutil.Process.kill, rank=1) as killed, pytest.raises(FtadviseError, match=r"rank 1 .* killed by SIGKILL"):
        run_many(plan, folder, Launch(2))
    assert killed
    assert read_failures(folder / "attempts" / "1")[0].signal == "SIGKILL"
    assert not worker(0), "the other rank did not wait for the dead one"
    saved = last_checkpoint(folder)
    assert saved is not None
    report = run_many(plan, folder, Launch(2), resume=True)
    assert report.resumed_from_step == int(saved.name.rpartition("-")[2]) > 0
    assert losses(report) == pytest.approx(alone[0], abs=1e-5)
    _same_weights(folder, alone)
    assert memory_error(report) < 0.01
