"""Why a state could not be written, in one line. The libraries report a full disk in four different ways. No torch."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ftadvise.profiles.errors import FtadviseError, SaveFailedError

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file became larger than this file system or the limit of this process (ulimit -f) allows",
    errno.EROFS: "the file system has become read-only",
    errno.EACCES: "the folder is not writable any more",
    errno.EPERM: "the folder is not writable any more",
    errno.ENOENT: "the folder is gone",
    errno.ENOTDIR: "the folder is gone",
    errno.ESTALE: "the network folder is gone",
    errno.EIO: "the disk reports an error",
}
_OF_WRITERS = ("PytorchStreamWriter", "inline_container", "iostream error", "unexpected pos")
"""PyTorch's zip writer is C++: it says that a write failed, not why."""


@contextmanager
def explaining_failed_save(out_dir: Path, folder: Path, where: str, *, needed_bytes: int = 0) -> Iterator[None]:
    """Turn any failure to write into `folder` into one SaveFailedError; other errors pass.

    Args:
        out_dir: the run folder, for the command that continues.
        where: what is being written, for the sentence: "the checkpoint of step 40".
        needed_bytes: how much is to be written; tells a full disk from other failures where the error does not.

    Raises:
        SaveFailedError: with the reason and how to go on.
    """
    try:
        yield
    except FtadviseError:
        raise
    except Exception as error:
        problem = _reason(error, folder, needed_bytes)
        if problem is None:
            raise
        raise _save_failed(out_dir, where, problem) from None


def check_room(out_dir: Path, folder: Path, where: str, *, needed_bytes: int) -> None:
    """Raise SaveFailedError when the disk of `folder` has not so many bytes free. Where that cannot be asked, the write will tell."""
    try:
        free_bytes = shutil.disk_usage(folder).free
    except OSError:
        return
    if free_bytes < needed_bytes:
        raise _save_failed(out_dir, where, f"it needs {_size(needed_bytes)}, {_size(free_bytes)} are free on the disk")


def _save_failed(out_dir: Path, where: str, problem: str) -> SaveFailedError:
    return SaveFailedError(
        f"{out_dir}: {where} could not be written: {problem}; what was saved before is kept",
        hint=f"mend that, then continue with: ftadvise run PLAN --out {out_dir} --resume",
    )


def _reason(error: Exception, folder: Path, needed_bytes: int) -> str | None:
    """Why writing failed; None when `error` is about something else."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno is not None:
        return _REASONS.get(error.errno, text[:160])
    if "StorageFull" in text or "No space left" in text or "os error 28" in text:
        return _REASONS[errno.ENOSPC]
    if type(error).__name__ != "SafetensorError" and not any(sign in text for sign in _OF_WRITERS):
        return None
    found = next((reason for number, reason in _REASONS.items() if f"os error {number})" in text or f"code: {number}," in text), None)
    if found:
        return found
    if not folder.is_dir():
        return _REASONS[errno.ENOENT]
    if shutil.disk_usage(folder).free < max(needed_bytes, 1 << 20):
        return _REASONS[errno.ENOSPC]
    return f"{text[:160]} (PyTorch says no more; look at the quota of the disk and at ulimit -f)"


def _size(count: int) -> str:
    return f"{count / (1 << 30):.2f} GiB" if count >= 1 << 28 else f"{count / (1 << 20):.1f} MiB"
