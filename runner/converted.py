"""Models in other formats, converted once into a folder of safetensors in the user's cache."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from ftadvise.profiles.errors import InputError
from ftadvise.profiles.yaml_store import cache_folder

_VERSION = 2
"""Raised when a conversion comes out differently, so that folders of earlier versions are not taken for it."""


def conversion_folder(name: str, size_bytes: int, changed: float) -> Path:
    """Where the conversion of a source is or would be; the name changes with the source and with how it is converted."""
    return cache_folder() / "models" / f"{name}-{size_bytes}-{int(changed)}-v{_VERSION}"


def converted_once(source: Path, folder: Path, convert: Callable[[Path], None], before: Callable[[], None]) -> Path:
    """`folder`, filled by `convert` on the first call; `before` is called before that.

    Two processes may call this at once: one converts, the other waits. The folder appears complete or not at all.

    Raises:
        InputError: the source is broken, or the cache folder cannot be written.
    """
    if folder.is_dir():
        return folder
    from filelock import FileLock

    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            if not folder.is_dir():
                before()
                temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
                convert(temporary)
                temporary.rename(folder)
    except (OSError, ValueError, KeyError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise InputError(
            f"{source}: cannot be converted into {folder.parent} ({reason})",
            hint="check the file and the free space; XDG_CACHE_HOME chooses another cache folder",
        ) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder
