"""A worker in processes of its own: started, told to stop, and understood when it died without a word.

The processes get a session of their own, so that Ctrl-C in the terminal reaches only the supervisor, which passes it on once: the first
one as a wish to save and stop, the second as an order.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ftadvise.estimator.recipe import Recipe
from ftadvise.runner.attempt import Outcome, read_outcome
from ftadvise.runner.checkpoints import last_checkpoint
from ftadvise.runner.fallback import advice
from ftadvise.runner.launch import Launch, describe_failure, read_failures, worker_command

_PATIENCE_S = 15.0
"""How long processes that were ordered to stop may take."""


def run_in_child(request_path: Path, recipe: Recipe, device: str, launch: Launch) -> Outcome:
    """Start the worker (or one per rank), wait for it, and say what came of it.

    A worker that leaves no outcome was killed: by the kernel because the host ran out of memory, or by somebody.
    """
    command, environment = worker_command(request_path, recipe, launch, device)
    kills_before = _kernel_memory_kills()
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=2, env=environment, start_new_session=True)  # noqa: S603 - our own
    with child as process, _passing_signals_on(process) as stopped:
        code = _wait(process, stopped)
    outcome = _telling_outcome(request_path.parent, launch.node_rank * launch.processes)
    if outcome is not None and (outcome.status != "done" or code == 0):
        return outcome
    if _kernel_memory_kills() > kills_before:
        return Outcome("out_of_memory", "out of memory: the kernel ended the process because the host's memory was full", advice(recipe), 5)
    out_dir = request_path.parents[2]  # <run folder>/attempts/N/request.json
    go_on = f"continue from the last checkpoint: ftadvise run PLAN --out {out_dir} --resume" if last_checkpoint(out_dir) else None
    if stopped:
        return Outcome("interrupted", "stopped at once", go_on, 130)
    return Outcome("failed", _without_a_word(code, request_path.parent), go_on, 1)


def _telling_outcome(folder: Path, first_rank: int) -> Outcome | None:
    """The outcome of the rank that ended first; the others often know no more than that they lost it. None when it was killed."""
    failures = read_failures(folder)
    return read_outcome(folder, failures[0].rank if failures else first_rank)


def _wait(process: subprocess.Popen[bytes], stopped: list[int]) -> int:
    waited = 0.0
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=0.5)
        waited = waited + 0.5 if len(stopped) > 1 else 0.0
        if waited > _PATIENCE_S:
            _signal_group(process, signal.SIGKILL)


@contextlib.contextmanager
def _passing_signals_on(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Yields the list of signals that were passed on so far. Only the main thread may listen."""
    stopped: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        stopped.append(number)
        if len(stopped) == 1:
            process.send_signal(signal.SIGINT)  # a launcher of several ranks passes it on
        else:
            _signal_group(process, signal.SIGINT)

    wanted = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    try:
        previous = {number: signal.signal(number, pass_on) for number in wanted}
    except ValueError:  # not the main thread
        previous = {}
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _without_a_word(code: int, folder: Path) -> str:
    failures = read_failures(folder)
    if failures:
        return describe_failure(failures[0])
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"the training process {how} and left no report"


def _kernel_memory_kills() -> int:
    """How many processes the Linux kernel has ended for lack of memory since it started; 0 where it does not say."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
