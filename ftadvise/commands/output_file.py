"""Files that a command writes where a person said: our own older ones are kept as `.bak`, others are not touched."""

from __future__ import annotations

from pathlib import Path

from ftadvise.profiles.errors import InputError

_HEAD = 1000
"""Characters in which a file says what it is."""


def check_replaceable(path: Path, mark: str, what: str, flag: str) -> None:
    """Refuse a path at which something is that we did not write.

    Args:
        mark: what a file of ours has in its first lines.
        what: the kind of file, in words.
        flag: the option with which another place is chosen.

    Raises:
        InputError: a folder, or a file without the mark.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder", hint=f"name a file in it with {flag}")
    if path.exists() and mark not in _head(path):
        raise InputError(f"{path} exists and is not a {what}", hint=f"choose another name with {flag}")


def keep_old(path: Path) -> Path | None:
    """Copy what is at `path` to its name with `.bak`; the copy's path, or None where nothing is there."""
    if not path.exists():
        return None
    backup = path.with_name(path.name + ".bak")
    backup.write_bytes(path.read_bytes())
    return backup


def _head(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD).decode("utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
