"""The run folder belongs to one run, and is refused before any work when it cannot take it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
from file_events import FileEvents, in_fork, kill_myself

from ftadvise.estimator.data_settings import DataSettings
from ftadvise.estimator.plan_file import MadeFor, PlanFile
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError
from ftadvise.runner.checkpoints import write_manifest
from ftadvise.runner.durable import NEW, OLD
from ftadvise.runner.run_folder import (
    bytes_on_disk,
    check_run_folder,
    claim_run_folder,
    last_checkpoint,
    make_run_folder,
    release_run_folder,
    write_folder_atomically,
)
from ftadvise.runner.run_lock import lock_run_folder

COMPONENTS = {"weights": 1000, "adapters": 10, "optimizer_state": 20}


def _plan(**recipe: object) -> PlanFile:
    return PlanFile(
        model_id="org/model",
        parameters=1,
        local_path=None,
        made_for=MadeFor("cpu", None, 0, 0, 1),
        stack={"name": "trl", "versions": {}},
        recipe=Recipe(**recipe),  # type: ignore[arg-type]
        data=DataSettings(),
        predicted={"memory": {"components": COMPONENTS}, "throughput": None},
        ftadvise_version="0.1.0",
    )


def _checkpoint(folder: Path, step: int, *, complete: bool = True) -> Path:
    path = folder / "checkpoints" / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text("{}")
    if complete:
        write_manifest(path)
    return path


def _check(folder: Path, plan: PlanFile, *, resume: bool = False, rehearse: bool = False) -> None:
    check_run_folder(folder, plan, resume=resume, rehearse=rehearse)


def test_checking_leaves_no_trace(tmp_path: Path) -> None:
    _check(tmp_path / "a" / "b", _plan())
    assert list(tmp_path.iterdir()) == []


def test_a_claimed_folder_is_refused_to_others(tmp_path: Path) -> None:
    make_run_folder(tmp_path / "run")
    claim_run_folder(tmp_path / "run", _plan(), rehearse=False)
    for other, rehearse in ((_plan(rank=4), False), (_plan(), True)):
        with pytest.raises(InputError, match="already holds another run"):
            _check(tmp_path / "run", other, rehearse=rehearse)


def test_a_run_that_never_saved_anything_may_start_again(tmp_path: Path) -> None:
    claim_run_folder(tmp_path, _plan(), rehearse=False)
    _check(tmp_path, _plan())


def test_an_unfinished_run_wants_resume_and_a_finished_one_neither(tmp_path: Path) -> None:
    claim_run_folder(tmp_path, _plan(), rehearse=False)
    _checkpoint(tmp_path, 3)
    with pytest.raises(InputError, match="unfinished") as caught:
        _check(tmp_path, _plan())
    assert "--resume" in str(caught.value.hint)
    _check(tmp_path, _plan(), resume=True)
    (tmp_path / "report.json").write_text("{}")
    for resume in (True, False):
        with pytest.raises(InputError, match="finished"):
            _check(tmp_path, _plan(), resume=resume)


def test_damaged_checkpoints_are_neither_resumed_nor_lost(tmp_path: Path) -> None:
    claim_run_folder(tmp_path, _plan(), rehearse=False)
    _checkpoint(tmp_path, 3, complete=False)
    with pytest.raises(InputError, match="unfinished"):
        _check(tmp_path, _plan())
    with pytest.raises(InputError, match=r"the newest is checkpoint-3: manifest\.json is missing") as caught:
        _check(tmp_path, _plan(), resume=True)
    assert str(caught.value.hint).startswith("to begin again: rm -r")
    _checkpoint(tmp_path, 2)
    _check(tmp_path, _plan(), resume=True)


def test_claiming_clears_what_a_killed_run_left_half_written(tmp_path: Path) -> None:
    claim_run_folder(tmp_path, _plan(), rehearse=False)
    kept = _checkpoint(tmp_path, 2)
    for path in (tmp_path / f"{NEW}adapter-abc", tmp_path / f"{OLD}adapter", kept.parent / f"{NEW}checkpoint-4", tmp_path / ".git"):
        path.mkdir()
        (path / "file").touch()
    claim_run_folder(tmp_path, _plan(), rehearse=False)
    assert sorted(str(path.relative_to(tmp_path)) for path in (*tmp_path.iterdir(), *kept.parent.iterdir())) == [
        ".git",
        "adapter",
        "checkpoints",
        "checkpoints/checkpoint-2",
        "run.json",
    ]


def test_resume_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run to resume"):
        _check(tmp_path, _plan(), resume=True)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"schema": "ftadvise.run/99", "owner": {}}', '{"schema": "ftadvise.run/1", "owner": 1}']
)
def test_a_run_json_nobody_can_read_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match="not readable"):
        _check(tmp_path, _plan())


def test_results_of_unknown_origin_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    with pytest.raises(InputError, match=r"no run\.json"):
        _check(tmp_path, _plan())


def test_a_file_and_a_file_in_the_path_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(InputError, match="must be a folder"):
        _check(file, _plan())
    with pytest.raises(InputError, match="not writable"):
        _check(file / "below", _plan())


def test_a_folder_that_refuses_writing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # as root, permission bits alone would not refuse
    with pytest.raises(InputError, match=r"not writable \(Permission denied\)"):
        _check(tmp_path, _plan())


def test_a_full_disk_is_refused_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(1 << 40, 1 << 40, 5 << 20))
    with pytest.raises(InputError, match="not enough disk"):
        _check(tmp_path, _plan())


def test_bytes_on_disk_counts_the_result_and_two_checkpoints() -> None:
    assert bytes_on_disk(_plan()) == 3 * 10 + 2 * 20
    assert bytes_on_disk(_plan(method="full")) == 3 * 1000 + 2 * 20


def test_the_last_complete_checkpoint_counts(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    _checkpoint(tmp_path, 9)
    newest = _checkpoint(tmp_path, 10)
    _checkpoint(tmp_path, 11, complete=False)
    assert last_checkpoint(tmp_path) == newest


def test_releasing_removes_only_what_was_claimed(tmp_path: Path) -> None:
    fresh, used = tmp_path / "fresh", tmp_path / "used"
    used.mkdir()
    (used / "notes.txt").write_text("mine")
    for folder in (fresh, used):
        with lock_run_folder(folder):
            claim_run_folder(folder, _plan(), rehearse=False)
            _checkpoint(folder, 1, complete=False)
            (folder / "attempts" / "1").mkdir(parents=True)
            release_run_folder(folder)
    assert not fresh.exists()
    assert [path.name for path in used.iterdir()] == ["notes.txt"]


def test_releasing_keeps_a_run_that_can_be_resumed(tmp_path: Path) -> None:
    claim_run_folder(tmp_path, _plan(), rehearse=False)
    _checkpoint(tmp_path, 1)
    release_run_folder(tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["owner"]["model"]["id"] == "org/model"


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "adapter"

    def half(folder: Path) -> None:
        (folder / "one").write_text("new")
        assert (target / "one").read_text() == "old", "it stays until the new one is in place"
        raise OSError("disk full")

    write_folder_atomically(target, lambda folder: (folder / "one").write_text("old") and None)
    with pytest.raises(OSError, match="disk full"):
        write_folder_atomically(target, half)
    assert [(p.name, (p / "one").read_text()) for p in tmp_path.iterdir()] == [("adapter", "old")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a killed child process is a POSIX matter")
def test_killed_at_any_moment_of_a_replacement_one_of_both_is_there(tmp_path: Path) -> None:
    def write(content: str) -> Callable[[Path], None]:
        def into(folder: Path) -> None:
            for name in ("one", "two"):
                (folder / name).write_text(content)

        return into

    found = []
    for moment in range(1, 50):
        run = tmp_path / str(moment)
        run.mkdir()
        write_folder_atomically(run / "adapter", write("old"))

        def replace(run: Path = run, moment: int = moment) -> None:
            events = FileEvents(run, moment, kill_myself)
            sys.addaudithook(events.hook)
            write_folder_atomically(run / "adapter", write("new"))

        code = in_fork(replace)
        claim_run_folder(run, _plan(), rehearse=False)
        assert sorted(path.name for path in run.iterdir()) == ["adapter", "run.json"]
        contents = {(run / "adapter" / name).read_text() for name in ("one", "two")}
        assert len(contents) == 1, moment
        found += contents
        if code == 0:
            break
    assert len(found) > 5
    assert found == sorted(found, reverse=True)
    assert set(found) == {"old", "new"}
