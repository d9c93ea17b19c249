"""A checkpoint is there whole or not at all, whatever happens while it is written; a damaged one is noticed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from file_events import FileEvents, in_fork, kill_myself
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.runner.checkpoints import KEPT, MANIFEST, all_checkpoints, damage, last_checkpoint, make_room, remove_older, write_manifest
from ftadvise.runner.durable import NEW, OLD, put_in_place, sweep


def _checkpoint(run: Path, step: int) -> Path:
    path = run / "checkpoints" / f"checkpoint-{step}"
    (path / "sub").mkdir(parents=True)
    (path / "weights").write_bytes(bytes(range(200)))
    (path / "sub" / "state").write_text(f"step {step}")
    write_manifest(path, step=step)
    return path


def test_the_newest_undamaged_one_counts(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    nine, ten = _checkpoint(tmp_path, 9), _checkpoint(tmp_path, 10)
    (tmp_path / "checkpoints" / "checkpoint-x").mkdir()
    (tmp_path / "checkpoints" / f"{NEW}checkpoint-11").mkdir()
    assert [all_checkpoints(tmp_path), last_checkpoint(tmp_path)] == [[nine, ten], ten]
    (ten / "sub" / "state").unlink()
    assert last_checkpoint(tmp_path) == nine


@pytest.mark.parametrize(
    ("harm", "wanted"),
    [
        (lambda c: (c / "weights").write_bytes(b"\0" * 100), "weights is damaged"),
        (lambda c: (c / "weights").write_bytes(b"\0" * 200), "weights is damaged"),
        (lambda c: (c / "weights").unlink(), "weights is missing"),
        (lambda c: (c / "pytorch_model.bin").write_bytes(b"a pickle"), "pytorch_model.bin was not put there by the run"),
        (lambda c: ((c / "weights").rename(c.parent / "w"), (c / "weights").symlink_to(c.parent / "w")), "weights was not put there"),
        (lambda c: (c / MANIFEST).unlink(), "manifest.json is missing"),
        (lambda c: (c / MANIFEST).write_text("[]"), "not readable"),
        (lambda c: (c / MANIFEST).write_text('{"schema": "ftadvise.checkpoint/9", "files": {}}'), "of another version"),
        (lambda c: (c / MANIFEST).write_text("[" * 100_000), "not readable"),
        (lambda c: (c / MANIFEST).write_bytes(b"\xff\xfe"), "not readable"),
    ],
)
def test_damage_is_named(tmp_path: Path, harm: Any, wanted: str) -> None:
    checkpoint = _checkpoint(tmp_path, 1)
    assert damage(checkpoint) is None
    harm(checkpoint)
    assert wanted in str(damage(checkpoint))
    assert last_checkpoint(tmp_path) is None


def test_two_undamaged_ones_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10, 20):
        _checkpoint(tmp_path, step)
    (tmp_path / "checkpoints" / "checkpoint-3" / "weights").unlink()
    _checkpoint(tmp_path, 4)
    remove_older(tmp_path / "checkpoints" / "checkpoint-4")
    assert [path.name for path in all_checkpoints(tmp_path)] == ["checkpoint-4", "checkpoint-20"][:KEPT]


def test_the_older_one_is_given_up_when_there_is_no_room(tmp_path: Path) -> None:
    _checkpoint(tmp_path, 1)
    newest = _checkpoint(tmp_path, 2)
    make_room(tmp_path / "checkpoints", 1)
    assert len(all_checkpoints(tmp_path)) == 2
    make_room(tmp_path / "checkpoints", 1 << 60)
    assert all_checkpoints(tmp_path) == [newest]


@given(existing=st.booleans(), killed_after=st.sampled_from(["nothing", "aside", "in place"]))
def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path_factory: pytest.TempPathFactory, existing: bool, killed_after: str) -> None:
    parent = tmp_path_factory.mktemp("replace")
    final, new = parent / "adapter", parent / f"{NEW}adapter-1"
    for folder, content in ((final, "old"), (new, "new")):
        folder.mkdir()
        (folder / "file").write_text(content)
    if not existing:
        shutil.rmtree(final)
    if killed_after != "nothing" and existing:
        final.rename(parent / f"{OLD}adapter")
    if killed_after == "in place":
        new.rename(final)
    sweep(parent)
    assert [path.name for path in parent.iterdir()] == (["adapter"] if existing or killed_after == "in place" else [])
    if final.exists():
        assert (final / "file").read_text() == ("new" if killed_after == "in place" else "old")


def test_sweeping_leaves_what_is_not_ours(tmp_path: Path) -> None:
    for name in (".git", ".ftadvise", "adapter", f"{NEW}x"):
        (tmp_path / name).mkdir()
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".ftadvise", ".git", "adapter"]


def test_put_in_place_replaces(tmp_path: Path) -> None:
    for name in ("one", "two"):
        new = tmp_path / f"{NEW}x"
        new.mkdir()
        (new / name).touch()
        put_in_place(new, tmp_path / "x")
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "two"]


# ---- with a real trainer


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A trainer that has trained and saved steps 1 and 2 of its run."""
    pytest.importorskip("torch")
    from tiny_training import save_tiny_base, stop_after, tiny_trainer, trained

    folder = tmp_path_factory.mktemp("saved")
    return trained(tiny_trainer(save_tiny_base(folder / "base"), folder / "run", stop_after(2), save_steps=1))


def _save_as_step_3(trainer: Any, run: Path) -> None:
    trainer.args.output_dir = str(run / "checkpoints")
    trainer.state.global_step = 3
    trainer._save_checkpoint(trainer.model, None)


@pytest.mark.train
def test_killed_at_every_moment_of_a_save_a_whole_checkpoint_is_left(saved: Any, tmp_path: Path) -> None:
    source, outcomes = Path(saved.args.output_dir).parent, []
    for moment in range(1, 100):
        run = tmp_path / str(moment)
        shutil.copytree(source, run)

        def save(run: Path = run, moment: int = moment) -> None:
            FileEvents(run, moment, kill_myself).watch()
            _save_as_step_3(saved, run)

        code = in_fork(save)
        for folder in all_checkpoints(run):
            assert damage(folder) is None, (moment, folder)
        newest = last_checkpoint(run)
        assert newest is not None
        sweep(run / "checkpoints")
        assert {path.name for path in (run / "checkpoints").iterdir()} <= {f"checkpoint-{step}" for step in (1, 2, 3)}
        assert last_checkpoint(run) == newest
        outcomes.append((code, newest.name))
        if code == 0:
            break
    assert len(outcomes) > 12, "every file is a moment to be killed at"
    assert {code for code, _ in outcomes[:-1]} == {-signal.SIGKILL}
    names = [name for _, name in outcomes]
    assert names == sorted(names)
    assert (names[0], names[-1]) == ("checkpoint-2", "checkpoint-3")


@pytest.mark.train
@pytest.mark.skipif(not hasattr(os, "fork"), reason="a killed child process is a POSIX matter")
@pytest.mark.parametrize("kills", [1, pytest.param(12, marks=pytest.mark.long)])
def test_killed_at_any_time_and_resumed_the_losses_are_the_same(saved: Any, tmp_path: Path, kills: int) -> None:
    from tiny_training import figures, tiny_trainer, trained, weights

    base = Path(saved.args.output_dir).parent.parent / "base"
    whole = trained(tiny_trainer(base, tmp_path / "whole"))
    run = tmp_path / "run"

    for number in range(kills):
        there = {path.name for path in all_checkpoints(run)}
        left = iter(range(random.Random(number).randrange(200), -1, -1))  # noqa: S311 - milliseconds

        def train(number: int = number) -> None:
            sweep(run / "checkpoints")
            trained(tiny_trainer(base, run, save_steps=1), resume=last_checkpoint(run) is not None)

        def has_saved(there: set[str] = there, left: Iterator[int] = left) -> bool:
            return {path.name for path in all_checkpoints(run)} > there and next(left) == 0

        assert in_fork(train, kill_when=has_saved) == -signal.SIGKILL
    sweep(run / "checkpoints")
    rest = trained(tiny_trainer(base, run, save_steps=1), resume=last_checkpoint(run) is not None)
    assert figures(rest) == figures(whole)
    assert weights(rest) == weights(whole)
    assert json.loads((run / "checkpoints" / "checkpoint-7" / MANIFEST).read_text())["step"] == 7
