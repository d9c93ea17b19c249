"""Two runs never work in one folder; a lock does not outlive its process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ftadvise.profiles.errors import InputError
from ftadvise.runner.run_folder import check_run_folder
from ftadvise.runner.run_lock import LOCK_FILES, check_unlocked, lock_run_folder

_HOLD = """
import sys
from pathlib import Path
from ftadvise.runner.run_lock import lock_run_folder
with lock_run_folder(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def _held_elsewhere(folder: Path, role: str = "run") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", _HOLD, str(folder), role]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_run_is_refused_with_who_holds_the_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with _held_elsewhere(run) as process:
        with pytest.raises(InputError, match=rf"another run is working there \(process {process.pid} on .*, since 20") as caught:
            check_unlocked(run)
        assert "--out" in str(caught.value.hint)
        with pytest.raises(InputError, match="another run"), lock_run_folder(run):
            pytest.fail("two runs")
        with pytest.raises(InputError, match="another run"):
            check_run_folder(run, None, resume=False, rehearse=False)  # type: ignore[arg-type]
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (run / ".lock.json").exists(), "what a killed process leaves does not hold anybody up"
        with lock_run_folder(run):
            assert json.loads((run / ".lock.json").read_text())["pid"] == os.getpid()
            check_unlocked(run)
    assert not (run / ".lock.json").exists()
    assert {path.name for path in run.iterdir()} <= set(LOCK_FILES)


def test_a_worker_whose_run_was_killed_holds_the_folder(tmp_path: Path) -> None:
    with _held_elsewhere(tmp_path, "worker") as process:
        with pytest.raises(InputError, match=f"process {process.pid} on .* of a run that was killed") as caught, lock_run_folder(tmp_path):
            pytest.fail("two runs")
        assert f"kill {process.pid}" in str(caught.value.hint)
    with lock_run_folder(tmp_path), lock_run_folder(tmp_path, "worker"):
        pass


def test_the_same_process_cannot_hold_it_twice(tmp_path: Path) -> None:
    with lock_run_folder(tmp_path), pytest.raises(InputError, match="another run"), lock_run_folder(tmp_path):
        pytest.fail("two runs")


@pytest.mark.parametrize("content", ["", "[]", '{"pid": "x"}', '{"pid": 1, "host": "\\u001b[2J", "since": "now"}', "\udcff"])
def test_a_strange_holder_file_is_no_obstacle(tmp_path: Path, content: str) -> None:
    with lock_run_folder(tmp_path):
        (tmp_path / ".lock.json").write_text(content, encoding="utf-8", errors="surrogateescape")
        with pytest.raises(InputError, match="another run is working there") as caught:
            check_unlocked(tmp_path)
        assert "\x1b" not in str(caught.value)


def test_a_folder_that_cannot_be_made_or_locked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made"), lock_run_folder(tmp_path / "file" / "run"):
        pytest.fail("locked a file")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").mkdir()
    with pytest.raises(InputError, match="cannot be locked"), lock_run_folder(tmp_path / "run"):
        pytest.fail("locked a folder")
