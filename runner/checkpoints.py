"""Checkpoints: what is on the disk under a final name is whole, and a resumed run is the run that was interrupted.

`safe_trainer` makes any transformers Trainer write its checkpoints this way. Module level needs no torch: `last_checkpoint` is asked
before anything heavy is imported.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from ftadvise.runner.durable import take_away

MANIFEST = "manifest.json"
MANIFEST_SCHEMA = "ftadvise.checkpoint/1"
KEPT = 2
"""Complete checkpoints that stay: if the newest turns out damaged, the one before it is there."""
_HASHED_BYTES = 64 << 20
"""Files up to this size are compared by content, larger ones by size only: hashing tens of GB at each save would show in the run."""


def checkpoints_of(folder: Path) -> Path:
    """Where the run folder `folder` holds its checkpoints."""
    return folder / "checkpoints"


def last_checkpoint(folder: Path) -> Path | None:
    """The newest undamaged checkpoint of the run folder `folder`, or None."""
    return next((path for path in reversed(all_checkpoints(folder)) if damage(path) is None), None)


def all_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of the run folder `folder`, damaged ones as well, in the order of their steps."""
    return [path for _, path in _numbered(checkpoints_of(folder))]


def write_manifest(checkpoint: Path, **facts: Any) -> None:
    """List every file of a finished checkpoint with its size, and with its sha256 where it is small."""
    files = {str(path.relative_to(checkpoint)): _fingerprint(path) for path in sorted(checkpoint.rglob("*")) if path.is_file()}
    document = {"schema": MANIFEST_SCHEMA, **facts, "files": files}
    (checkpoint / MANIFEST).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, None when it holds exactly the files of its manifest, undamaged; no links, nothing added."""
    try:
        document = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        listed = document["files"]
        if document["schema"] != MANIFEST_SCHEMA or not isinstance(listed, dict):
            return f"{MANIFEST} is of another version"
        paths = [path for path in checkpoint.rglob("*") if path.is_symlink() or not path.is_dir()]
        found = {str(path.relative_to(checkpoint)): path for path in paths if path != checkpoint / MANIFEST}
        for name in sorted(found.keys() | listed.keys()):
            if name not in found:
                return f"{name} is missing"
            if name not in listed or found[name].is_symlink():
                return f"{name} was not put there by the run"
            if _fingerprint(found[name]) != listed[name]:
                return f"{name} is damaged"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"not readable ({type(error).__name__})"
    return None


def _fingerprint(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    if size > _HASHED_BYTES:
        return {"bytes": size}
    return {"bytes": size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    """The folder's checkpoints with their steps, oldest first."""
    found = [(path.name.rpartition("-")[2], path) for path in folder.glob("checkpoint-*")]
    return sorted((int(number), path) for number, path in found if number.isdecimal() and path.is_dir())


def remove_older(newest: Path) -> None:
    """Keep `newest` and the one undamaged checkpoint before it; the others go."""
    kept = 1
    for _, path in reversed(_numbered(newest.parent)):
        if path == newest:
            continue
        if kept < KEPT and damage(path) is None:
            kept += 1
        else:
            take_away(path)


def make_room(folder: Path, needed_bytes: int) -> None:
    """Where a further checkpoint would not fit into `folder`, give up all but the newest undamaged one."""
    if shutil.disk_usage(folder).free >= needed_bytes:
        return
    undamaged = [path for _, path in _numbered(folder) if damage(path) is None]
    for path in undamaged[:-1]:
        take_away(path)


def safe_trainer(base: type[Any]) -> type[Any]:
    """A subclass of `base` (a transformers Trainer) whose checkpoints are atomic and whose resumed runs are exact."""
    from ftadvise.runner.safe_trainer import make_safe

    safe: type[Any] = make_safe(base)
    return safe
