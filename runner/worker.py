"""`python -m ftadvise.runner.worker REQUEST.json`: one attempt in a process of its own, which leaves an outcome whatever happens.

Started by the supervisor, alone or as one of several ranks under `accelerate launch`. Its standard input is a pipe that the supervisor
holds open: when that ends, the supervisor is gone, and the run is saved and stopped as after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from ftadvise.profiles.errors import FtadviseError, InterruptedRunError, OutOfMemoryError
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.secrets import without_secrets
from ftadvise.runner.attempt import Outcome, Request, read_request, write_outcome
from ftadvise.runner.launch import Launch
from ftadvise.runner.ranks import leave, rank
from ftadvise.runner.run_lock import lock_run_folder

if TYPE_CHECKING:
    from rich.console import Console


def main(arguments: list[str]) -> int:
    """Execute the request named by the only argument; returns the exit code of its outcome."""
    from ftadvise.profiles.probe import probe
    from ftadvise.runner.quiet import no_telemetry

    path = Path(arguments[0])
    threading.Thread(target=_stop_without_supervisor, daemon=True).start()
    no_telemetry()
    return execute(path, Launch.of_environment().together(probe())).exit_code


def execute(path: Path, hardware: Hardware, console: Console | None = None) -> Outcome:
    """The attempt that `path` asks for, in this process; its outcome is also written beside the request.

    Args:
        console: where progress goes; default stderr.
    """
    if console is None:
        from rich.console import Console

        console = Console(stderr=True, quiet=rank() > 0)
    request, outcome, told = None, Outcome("failed", "the request was not read", None, 1), False
    try:
        request, plan_file = read_request(path)
        from ftadvise.runner.train import train

        # the folder stays taken while a worker saves whose supervisor was killed
        with lock_run_folder(Path(request.out_dir), "worker") if rank() == 0 else contextlib.nullcontext():
            train(request, plan_file, hardware, console)
        outcome = Outcome("done")
    except OutOfMemoryError as error:
        outcome = _outcome("out_of_memory", error)
    except InterruptedRunError as error:
        outcome, told = _outcome("interrupted", error), True
    except KeyboardInterrupt:
        outcome = Outcome("interrupted", *_stopped(request), InterruptedRunError.exit_code)
    except FtadviseError as error:
        outcome = _outcome("failed", error)
    except Exception as error:  # noqa: BLE001 - the last resort: whatever it is, the supervisor has to know
        kept = path.with_name(f"traceback-{rank()}.txt")
        kept.write_text(without_secrets(traceback.format_exc()), encoding="utf-8")
        words = without_secrets(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
        outcome = Outcome("failed", words, f"the traceback is in {kept}", 1)
    finally:
        write_outcome(path.parent, outcome, rank())
    if outcome.status == "done" or told:
        leave()
    return outcome


def _outcome(status: str, error: FtadviseError) -> Outcome:
    return Outcome(status, str(error), error.hint, error.exit_code)  # type: ignore[arg-type]


def _stopped(request: Request | None) -> tuple[str, str | None]:
    from ftadvise.runner.checkpoints import last_checkpoint

    kept = request is not None and last_checkpoint(Path(request.out_dir)) is not None
    return (
        "stopped at once",
        f"continue from the last checkpoint: ftadvise run PLAN --out {request.out_dir} --resume" if request and kept else None,
    )


def _stop_without_supervisor() -> None:
    if sys.stdin is None or sys.stdin.isatty():
        return
    while os.read(sys.stdin.fileno(), 1):  # a buffered read would hold a lock that Python wants when it ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
