"""The file in which calibrations and records of runs stay: one JSON document under the user's data folder, `ftadvise.calibration/1`.

A reader never fails: a file that it cannot use counts as empty, with a warning that names it. A writer takes a lock, reads what is there
now, adds to it and replaces the file at once, so that two processes lose nothing; a file that it cannot use is moved aside first.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

from ftadvise.estimator.calibration import Calibration, DeviceCalibration, RunRecord
from ftadvise.estimator.calibration_document import from_document, to_document
from ftadvise.estimator.plan_file import write_text_atomically
from ftadvise.profiles.errors import InputError

CALIBRATION_NAME = "calibration.json"
KEPT_RUNS = 200
_LOCK_SECONDS = 10.0
_MOST_BYTES = 16 << 20
_log = logging.getLogger(__name__)


def calibration_path() -> Path:
    """Where the store is: FTADVISE_DATA_DIR, else the user's data folder for ftadvise. The file need not exist."""
    chosen = os.environ.get("FTADVISE_DATA_DIR")
    if chosen:
        return Path(chosen) / CALIBRATION_NAME
    from platformdirs import user_data_path

    return user_data_path("ftadvise", appauthor=False) / CALIBRATION_NAME


def load_calibration() -> Calibration:
    """What is stored; empty when there is no file, or one that cannot be used (logged as a warning, once for each state of the file)."""
    path = calibration_path()
    try:
        now = path.stat()
    except OSError:
        return Calibration()
    return _loaded(path, now.st_mtime_ns, now.st_size)


def store_device(device: DeviceCalibration) -> Path:
    """Add the figures of one device in place of its earlier ones; returns the file.

    Raises:
        InputError: the file cannot be written.
    """
    return _update(
        lambda stored: dataclasses.replace(stored, devices=(*(each for each in stored.devices if each.device != device.device), device))
    )


def store_run(run: RunRecord) -> Path:
    """Add one finished run; the newest 200 stay. Returns the file.

    Raises:
        InputError: the file cannot be written.
    """
    return _update(lambda stored: dataclasses.replace(stored, runs=(*stored.runs, run)[-KEPT_RUNS:]))


def reset_calibration() -> tuple[Calibration, Path | None]:
    """Remove the store; returns what was in it and the file that was removed (None: there was none).

    Raises:
        InputError: it cannot be removed.
    """
    path = calibration_path()
    if not path.exists():
        return Calibration(), None
    with _locked(path):
        try:
            stored = read_calibration(path)
        except InputError:
            stored = Calibration()
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"{path}: cannot be removed ({error.strerror or error})") from None
    return stored, path


def read_calibration(path: Path) -> Calibration:
    """What is in the file.

    Raises:
        InputError: missing, not readable, not JSON, of another schema, or with values that cannot be; names the file.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"larger than {_MOST_BYTES >> 20} MiB")
        return from_document(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: {' '.join(str(error).split())[:160]}") from None


@functools.lru_cache(maxsize=4)
def _loaded(path: Path, _modified_ns: int, _size: int) -> Calibration:
    try:
        return read_calibration(path)
    except InputError as error:
        _log.warning("warning: the calibration is ignored: %s; `ftadvise calibrate --reset` removes it", error)
        return Calibration()


def _update(change: Callable[[Calibration], Calibration]) -> Path:
    path = calibration_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be made ({error.strerror or error})") from None
    with _locked(path):
        stored = Calibration()
        if path.exists():
            try:
                stored = read_calibration(path)
            except InputError as error:
                _log.warning("warning: %s; it is kept as %s", error, _move_aside(path).name)
        write_text_atomically(path, json.dumps(to_document(change(stored)), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def _move_aside(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.bad{number or ''}") for number in itertools.count())
    aside = next(name for name in names if not name.exists())
    try:
        return path.replace(aside)
    except OSError as error:
        raise InputError(f"{path}: cannot be moved aside ({error.strerror or error})") from None


class _locked:  # noqa: N801 - used as a statement
    """Holds the lock of the store for a `with` block; whoever dies with it lets it go (the operating system's file lock)."""

    def __init__(self, path: Path) -> None:
        from filelock import FileLock

        self._path = path
        self._lock = FileLock(path.with_name(path.name + ".lock"), timeout=_LOCK_SECONDS)

    def __enter__(self) -> None:
        from filelock import Timeout

        try:
            self._lock.acquire()
        except Timeout:
            raise InputError(f"{self._path}: another process has held it for {_LOCK_SECONDS:.0f} seconds") from None
        except (OSError, NotImplementedError) as error:
            raise InputError(f"{self._path}: cannot be locked ({getattr(error, 'strerror', None) or error})") from None

    def __exit__(self, *_: object) -> None:
        self._lock.release()
