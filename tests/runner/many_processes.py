"""What the tests of several processes share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from ftadvise.runner.checkpoints import last_checkpoint
from ftadvise.runner.report import RunReport


def losses(report: RunReport) -> list[float]:
    """The loss of every step, of which none is missing."""
    assert [step for step, _ in report.losses] == list(range(1, report.steps + 1))
    found = [loss for _, loss in report.losses if loss is not None]
    assert len(found) == report.steps
    return found


def trained(folder: Path) -> dict[str, Any]:
    """The weights that a run saved, by name."""
    from safetensors.torch import load_file

    return load_file(next(folder.glob("*/*model.safetensors")))


def memory_error(report: RunReport) -> float:
    """By how much the worst rank differs from the prediction for the batch that was metered."""
    assert report.predicted_at_measured is not None
    predicted = report.predicted_at_measured["memory"]["peak_allocated_bytes"]
    return max(abs(rank["measured"]["peak_allocated_bytes"] / predicted - 1) for rank in report.ranks)


def worker(rank: int) -> psutil.Process | None:
    """The process of that rank below this one."""
    for process in psutil.Process().children(recursive=True):
        try:
            if process.environ().get("RANK") == str(rank) and "ftadvise.runner.worker" in process.cmdline():
                return process
        except psutil.Error:
            continue
    return None


@contextmanager
def when_saved(folder: Path, act: Callable[[psutil.Process], None], rank: int) -> Iterator[list[int]]:
    """`act` on the worker of `rank` once the first checkpoint is there; yields a list that is no longer empty when that has happened."""
    done: list[int] = []

    def watch() -> None:
        while not over.wait(0.05):
            found = worker(rank) if last_checkpoint(folder) else None
            if found is not None:
                act(found)
                done.append(found.pid)
                return

    over = threading.Event()
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()
