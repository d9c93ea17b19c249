"""Four processes, two nodes, Ctrl-C, and what else takes minutes of several processes over gloo. Left out of CI (`make test-long`)."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from many_processes import losses, memory_error, trained, when_saved  # noqa: E402

from ftadvise.estimator.plan_file import PlanFile  # noqa: E402
from ftadvise.profiles.errors import InterruptedRunError  # noqa: E402
from ftadvise.profiles.hardware import Hardware  # noqa: E402
from ftadvise.runner.checkpoints import last_checkpoint  # noqa: E402
from ftadvise.runner.launch import Launch  # noqa: E402
from ftadvise.runner.node import follow_run  # noqa: E402
from ftadvise.runner.report import RunReport  # noqa: E402

pytestmark = [pytest.mark.train, pytest.mark.long]
MakePlan = Callable[..., PlanFile]
RunMany = Callable[..., RunReport]
FULL = {"method": "full", "learning_rate": 1e-3, "dropout": 0.0, "max_steps": 2}
"""Two steps, which end before the epoch does: the last step of an epoch is smaller, and ranks fill theirs up."""


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_four_processes_train_the_whole_model_like_one(
    sharding: str, tiny_model: Path, make_plan: MakePlan, run_many: RunMany, run_here: Callable[..., Any], tmp_path: Path
) -> None:
    report = run_many(make_plan(tiny_model, sharding=sharding, gradient_accumulation=2, **FULL), tmp_path / "four", Launch(4))
    alone = run_here(make_plan(tiny_model, gradient_accumulation=8, **FULL), tmp_path / "one")
    assert losses(report) == pytest.approx(losses(alone), abs=1e-4)
    weights, same = trained(tmp_path / "four"), trained(tmp_path / "one")
    assert weights.keys() == same.keys()
    assert all(torch.allclose(weight, same[name], atol=1e-4) for name, weight in weights.items())
    assert len(report.ranks) == 4
    assert memory_error(report) < 0.01


@pytest.mark.parametrize(
    "recipe",
    [
        {"method": "full", "compute_dtype": "bf16", "gradient_checkpointing": True},
        {"compute_dtype": "bf16", "gradient_checkpointing": True, "dropout": 0.1},
        {"method": "dora"},
        {"quantization": "nf4", "double_quantization": True},
        {"method": "ia3"},
    ],
    ids=lambda recipe: "-".join(map(str, recipe.values())),
)
def test_fsdp_measures_what_was_predicted(
    recipe: dict[str, Any], tiny_model: Path, make_plan: MakePlan, run_many: RunMany, tmp_path: Path
) -> None:
    report = run_many(make_plan(tiny_model, sharding="fsdp", **recipe), tmp_path / "run", Launch(2))
    assert losses(report)[-1] < losses(report)[0] * 1.05
    assert memory_error(report) < 0.02


def test_ctrl_c_stops_all_ranks_after_the_same_step(tiny_model: Path, make_plan: MakePlan, run_many: RunMany, tmp_path: Path) -> None:
    plan, folder = make_plan(tiny_model, sharding="ddp", max_steps=40, dropout=0.0), tmp_path / "run"
    with when_saved(folder, lambda _worker: os.kill(os.getpid(), signal.SIGINT), rank=0), pytest.raises(InterruptedRunError, match="saved"):
        run_many(plan, folder, Launch(2))
    saved = last_checkpoint(folder)
    assert saved is not None
    assert {path.name for path in saved.glob("rng_state_*")} == {"rng_state_0.pth", "rng_state_1.pth"}
    report = run_many(plan, folder, Launch(2), resume=True)
    assert len(losses(report)) == 40
    assert report.resumed_from_step == int(saved.name.rpartition("-")[2])


def test_two_nodes_meet_and_train_like_one_with_two_processes(
    tiny_model: Path, hardware: Hardware, make_plan: MakePlan, run_many: RunMany, tmp_path: Path
) -> None:
    plan, folder = make_plan(tiny_model, sharding="fsdp", dropout=0.0), tmp_path / "two-nodes"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        free_port = listener.getsockname()[1]
    nodes = [Launch(1, 2, rank, f"127.0.0.1:{free_port}") for rank in (0, 1)]
    second = threading.Thread(target=follow_run, args=(plan,), kwargs={"out_dir": folder, "hardware": hardware, "launch": nodes[1]})
    second.start()
    report = run_many(plan, folder, nodes[0])
    second.join()
    assert losses(report) == pytest.approx(losses(run_many(plan, tmp_path / "one-node", Launch(2))), abs=1e-6)
    assert {rank["host"] for rank in report.ranks} == {report.ranks[0]["host"]}
    assert [rank["rank"] for rank in report.ranks] == [0, 1]
