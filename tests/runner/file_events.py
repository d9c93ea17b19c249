"""Processes that are killed, and writes that fail, at one chosen moment after another."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any


def in_fork(work: Callable[[], None], *, kill_when: Callable[[], bool] | None = None) -> int:
    """Do `work` in a forked process, which saves the imports; returns 0, 1 after an exception, or minus the signal that killed it.

    `kill_when` is asked every millisecond; when it says yes, the process is killed as by `kill -9`.
    """
    with warnings.catch_warnings():  # Python 3.12 warns of threads that the fork leaves behind; the child needs none of them
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - the exit code says it
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    while kill_when is not None:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if kill_when():
            os.kill(child, signal.SIGKILL)
            break
        time.sleep(0.001)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class FileEvents:
    """Counts what this process does to the files below a folder, and strikes at one of these moments.

    Python's audit hooks see what Python does and cannot be removed, so use it in a forked process. The writers of torch and safetensors
    are compiled code: they count before they begin and when half of the file is there.
    """

    def __init__(self, folder: Path, strike_at: int, strike: Callable[[], None]) -> None:
        self.seen = 0
        self._folder, self._at, self._strike = str(folder), strike_at, strike

    def watch(self) -> None:
        """From now on."""
        import torch

        from ftadvise.runner import training_state

        sys.addaudithook(self.hook)
        torch.save = self._counted(torch.save)
        training_state.save_file = self._counted(training_state.save_file)

    def stop(self) -> None:
        """Strike no more."""
        self._at = 0

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """For `sys.addaudithook`."""
        written = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        wanted = written or event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir")
        if wanted and str(arguments[0]).startswith(self._folder):
            self._count()

    def _counted(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def counted(what: Any, path: Any, *rest: Any, **more: Any) -> Any:
            self._count()
            write(what, path, *rest, **more)
            whole = Path(path).read_bytes()
            Path(path).write_bytes(whole[: len(whole) // 2])
            self._count()
            Path(path).write_bytes(whole)

        return counted

    def _count(self) -> None:
        self.seen += 1
        if self.seen == self._at:
            self._strike()


def kill_myself() -> None:
    """As `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)
