"""Folders that appear whole or not at all, also after kill -9 or a power cut. No torch.

Everything unfinished lies under a name that begins with `NEW` or `OLD`, beside the name it will have, so that a rename on one file
system puts it in place. `sweep` clears what a killed process left behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

NEW = ".ftadvise-new-"
"""A folder that is being written."""
OLD = ".ftadvise-old-"
"""A folder that is being replaced or removed."""


def sync_tree(folder: Path) -> None:
    """Have the kernel write every file and folder below `folder` to the disk (a rename may otherwise reach it before the contents)."""
    for where, _folders, files in os.walk(folder, topdown=False):
        for name in files:
            _sync(Path(where) / name)
        _sync(Path(where))


def put_in_place(new: Path, final: Path) -> None:
    """Rename the finished folder `new` to `final`, replacing what is there; the old one goes only when the new one is in place.

    A process killed in between leaves the old folder aside, from where `sweep` brings it back.
    """
    sync_tree(new)
    aside = final.with_name(f"{OLD}{final.name}")
    if final.exists():
        remove_folder(aside)
        final.rename(aside)
    new.rename(final)
    _sync(final.parent)
    remove_folder(aside)


def take_away(folder: Path) -> None:
    """Remove a folder without ever leaving half of it under its name; what cannot be moved stays whole."""
    aside = folder.with_name(f"{NEW}{folder.name}-gone")
    remove_folder(aside)
    with contextlib.suppress(OSError):
        folder.rename(aside)
        _sync(folder.parent)
        remove_folder(aside)


def remove_folder(folder: Path) -> None:
    """Remove a folder and its contents, if it is there. What cannot be removed stays: it is under no final name."""
    shutil.rmtree(folder, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Clear away what killed processes left in `parent`: unfinished folders go, a replaced one without its replacement comes back."""
    for path in sorted(parent.glob(f"{OLD}*")):
        final = path.with_name(path.name[len(OLD) :])
        if final.exists():
            remove_folder(path)
        else:
            path.rename(final)
    for path in parent.glob(f"{NEW}*"):
        remove_folder(path)


def _sync(path: Path) -> None:
    if os.name == "nt":  # needs a handle for writing there, and cannot open folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # network file systems that cannot sync a folder
            raise
    finally:
        os.close(handle)
