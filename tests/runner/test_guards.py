"""A run that can only get worse stops with one sentence, and what was good before is still there."""

from __future__ import annotations

import errno
import math
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from file_events import FileEvents, in_fork
from tiny_training import figures, save_tiny_base, stop_after, tiny_trainer, trained, weights
from transformers import TrainerCallback

from ftadvise.profiles.errors import SaveFailedError, TrainingDivergedError
from ftadvise.runner.checkpoints import all_checkpoints, damage, last_checkpoint
from ftadvise.runner.durable import NEW
from ftadvise.runner.guards import Guards
from ftadvise.runner.save_failures import explaining_failed_save


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("base"))


class _Poison(TrainerCallback):  # type: ignore[misc]
    """Puts a value where it does harm before step `step` is taken."""

    def __init__(self, where: str, value: float, step: int) -> None:
        self._where, self._value, self._step = where, value, step

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step == self._step - 1 and self._where == "weights":
            with torch.no_grad():
                next(p for p in model.parameters() if p.requires_grad).fill_(self._value)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step == self._step - 1 and self._where == "gradients":
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad.fill_(self._value)


@pytest.mark.train
@pytest.mark.parametrize(("where", "value"), [("weights", math.nan), ("gradients", math.nan)])
def test_a_poisoned_step_is_never_saved(base: Path, tmp_path: Path, where: str, value: float) -> None:
    """Poisoned gradients come after the norm was taken: the guards see nothing, the checkpoint refuses the weights."""
    trainer = tiny_trainer(base, tmp_path, Guards(), _Poison(where, value, 3), save_steps=1)
    with pytest.raises(TrainingDivergedError, match=r"step 3 .*the checkpoints before it are kept") as caught:
        trained(trainer)
    assert "learning_rate" in str(caught.value.hint)
    assert caught.value.exit_code == 6
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["checkpoint-1", "checkpoint-2"]


def _log(guards: Guards, *, skipped: bool = False, **logs: float) -> None:
    state, optimizer = SimpleNamespace(global_step=5), SimpleNamespace(step_was_skipped=skipped)
    guards.on_log(None, state, None, logs=logs, optimizer=optimizer)


def test_figures_that_are_not_numbers_stop() -> None:
    guards = Guards()
    _log(guards, loss=1.0, grad_norm=3.0)
    _log(guards, eval_loss=math.nan)
    _log(guards, loss=1.0)
    for logs, wanted in (
        ({"loss": math.nan}, "loss of step 5 is nan"),
        ({"loss": math.inf}, "loss of step 5 is inf"),
        ({"loss": 1.0, "grad_norm": math.inf}, r"gradients of step 5 .*norm inf"),
    ):
        with pytest.raises(TrainingDivergedError, match=wanted):
            _log(guards, **logs)


def test_fp16_may_look_for_its_scale_but_not_for_ever() -> None:
    guards = Guards()
    for _ in range(19):
        _log(guards, loss=1.0, grad_norm=math.inf, skipped=True)
    _log(guards, loss=1.0, grad_norm=1.0)
    for _ in range(19):
        _log(guards, loss=1.0, grad_norm=math.nan, skipped=True)
    with pytest.raises(TrainingDivergedError, match="20 steps up to step 5 are too large for fp16"):
        _log(guards, loss=1.0, grad_norm=math.nan, skipped=True)


# ---- a disk that does not take it


@pytest.fixture(scope="module")
def saved(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A trainer that has trained and saved steps 1 and 2 of its run."""
    return trained(tiny_trainer(base, tmp_path_factory.mktemp("saved"), stop_after(2), save_steps=1))


def _copy_of_run(trainer: Any, run: Path) -> Path:
    shutil.copytree(Path(trainer.args.output_dir), run / "checkpoints")
    trainer.args.output_dir = str(run / "checkpoints")
    trainer.state.global_step = 3
    return run


def _check_that_saving_fails(trainer: Any, run: Path, wanted: str) -> None:
    with pytest.raises(SaveFailedError, match="the checkpoint of step 3 could not be written") as caught:
        trainer._save_checkpoint(trainer.model, None)
    assert wanted in str(caught.value), caught.value
    assert f"--out {run} --resume" in str(caught.value.hint)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 7


@pytest.mark.train
@pytest.mark.parametrize("number", [errno.ENOSPC, pytest.param(errno.EROFS, marks=pytest.mark.long)])
def test_a_write_that_fails_anywhere_leaves_the_last_good_state(saved: Any, tmp_path: Path, number: int) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    for moment in range(1, 100):
        run = tmp_path / str(moment)

        def work(run: Path = run, moment: int = moment) -> None:
            _copy_of_run(saved, run)
            events = FileEvents(run, moment, fail)
            events.watch()
            try:
                saved._save_checkpoint(saved.model, None)
            except SaveFailedError:
                events.stop()
                assert last_checkpoint(run) == run / "checkpoints" / "checkpoint-2"
            else:
                os._exit(9)

        code = in_fork(work)
        assert code in (0, 9), moment
        assert all(damage(path) is None for path in all_checkpoints(run))
        assert not list((run / "checkpoints").glob(f"{NEW}*"))
        if code == 9:
            break
    assert moment > 8


@pytest.mark.train
def test_a_limit_on_the_size_of_files_is_named(saved: Any, tmp_path: Path) -> None:
    """A real failing write, below Python: the compiled writers of safetensors and of torch meet it."""
    newest = last_checkpoint(Path(saved.args.output_dir).parent)
    assert newest is not None
    for name in ("trained.safetensors", "optimizer.pt"):
        limit = (newest / name).stat().st_size - 1
        run = tmp_path / str(limit)

        def work(run: Path = run, limit: int = limit) -> None:
            _copy_of_run(saved, run)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            _check_that_saving_fails(saved, run, "ulimit -f")

        assert in_fork(work) == 0, limit
        assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["checkpoint-1", "checkpoint-2"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """`small_disk(bytes)`: a file system of that size."""
    mounted = []

    def make(size: int) -> Path:
        folder = tmp_path / f"disk-{size}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if os.name == "nt" or subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("mounting a small disk needs root")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.train
@pytest.mark.parametrize("asked", [True, False], ids=["seen before", "met while writing"])
def test_a_full_disk_stops_the_run_and_with_room_it_goes_on(
    base: Path, tmp_path: Path, small_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    whole = trained(tiny_trainer(base, tmp_path / "whole"))
    disk = small_disk(3 << 20)
    run, ballast = disk / "run", disk / "ballast"
    run.mkdir()

    class FillUp(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 3:
                free = shutil.disk_usage(disk).free
                ballast.write_bytes(bytes(max(0, free - (30 << 10))))

    if not asked:
        monkeypatch.setattr("ftadvise.runner.safe_trainer.check_room", lambda *_args, **_more: None)
        monkeypatch.setattr("ftadvise.runner.safe_trainer.make_room", lambda *_args: None)
    with pytest.raises(SaveFailedError, match=r"step 4 could not be written: (it needs|the disk is full)"):
        trained(tiny_trainer(base, run, FillUp(), save_steps=1))
    assert not list((run / "checkpoints").glob(f"{NEW}*"))
    newest = last_checkpoint(run)
    assert newest is not None
    assert newest.name == "checkpoint-3"
    ballast.unlink()
    rest = trained(tiny_trainer(base, run), resume=True)
    assert figures(rest) == figures(whole)
    assert weights(rest) == weights(whole)


@pytest.mark.train
def test_a_run_folder_that_vanished_is_named(saved: Any, tmp_path: Path) -> None:
    def work() -> None:
        run = _copy_of_run(saved, tmp_path / "run")
        shutil.rmtree(run)
        _check_that_saving_fails(saved, run, "the folder is gone")
        assert not run.exists()

    assert in_fork(work) == 0


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.ESTALE, "Stale file handle"), "the network folder is gone"),
        (OSError(errno.EINVAL, "Invalid\nargument"), "Invalid argument"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is full"),
        (RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file data/0"), "inline_container"),
    ],
)
def test_reasons(tmp_path: Path, error: Exception, wanted: str) -> None:
    with pytest.raises(SaveFailedError) as caught, explaining_failed_save(tmp_path, tmp_path, "the adapter"):
        raise error
    assert wanted in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyError("x"), TrainingDivergedError("the loss is nan")])
def test_other_errors_stay_what_they_are(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)), explaining_failed_save(tmp_path, tmp_path, "the adapter"):
        raise error
