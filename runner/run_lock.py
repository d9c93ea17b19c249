"""One run at a time in a run folder.

`.lock` is held by `ftadvise run` for as long as it lives, `.worker.lock` by the process that trains: if the first is killed and the second
lives on, the folder is still taken. The operating system gives a lock back when its process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from ftadvise.estimator.plan_file import write_text_atomically
from ftadvise.profiles.errors import InputError

Role = Literal["run", "worker"]
_LOCKS: dict[Role, str] = {"run": ".lock", "worker": ".worker.lock"}
LOCK_FILES = tuple(name + ending for name in _LOCKS.values() for ending in ("", ".json"))
"""Every file that a lock may leave in a run folder; the `.json` says who holds it."""


@contextmanager
def lock_run_folder(folder: Path, role: Role = "run") -> Iterator[None]:
    """Hold `folder` for the length of a `with` block; it is made when it is not there.

    Raises:
        InputError: another process works there (named with the time it began), or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror or error})", hint="choose another folder with --out") from None
    for other in _LOCKS:
        if role == "run" or other == role:
            check_unlocked(folder, other)
    holder = folder / f"{_LOCKS[role]}.json"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_acquire(folder / _LOCKS[role]))
        except TimeoutError:
            raise _taken(folder, role) from None
        except OSError as error:
            raise InputError(f"{folder}: cannot be locked ({error.strerror or error})", hint="choose another folder with --out") from None
        began = datetime.now(timezone.utc).isoformat(timespec="seconds")
        write_text_atomically(holder, json.dumps({"pid": os.getpid(), "host": platform.node(), "since": began}) + "\n")
        stack.callback(holder.unlink, missing_ok=True)
        yield


def check_unlocked(folder: Path, role: Role = "run") -> None:
    """Raise InputError when another living process holds `folder`; changes nothing."""
    path, holder = folder / _LOCKS[role], _holder(folder / f"{_LOCKS[role]}.json")
    if not path.exists() or (holder is not None and (holder["pid"], holder["host"]) == (os.getpid(), platform.node())):
        return
    try:
        with _acquire(path):
            pass
    except TimeoutError:
        raise _taken(folder, role) from None
    except OSError:
        return  # not ours to write: whoever wants to work here will be told so


@contextmanager
def _acquire(path: Path) -> Iterator[None]:
    from filelock import FileLock

    with warnings.catch_warnings():  # a file system without flock: filelock says so and takes a lock that names its process
        warnings.simplefilter("ignore")
        with FileLock(path, timeout=0):
            yield


def _taken(folder: Path, role: Role) -> InputError:
    holder = _holder(folder / f"{_LOCKS[role]}.json") or dict.fromkeys(("pid", "host", "since"), "?")
    pid, host, since = holder["pid"], holder["host"], holder["since"]
    if role == "run":
        return InputError(
            f"{folder}: another run is working there (process {pid} on {host}, since {since})",
            hint="wait for it, or choose another folder with --out",
        )
    return InputError(
        f"{folder}: process {pid} on {host} of a run that was killed is still working there, since {since}",
        hint=f"wait until it has saved its state, or end it with: kill {pid}",
    )


def _holder(path: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        shown = {key: "".join(sign for sign in str(values[key])[:80] if sign.isprintable()) for key in ("host", "since")}
        return {"pid": int(values["pid"]), **shown}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
