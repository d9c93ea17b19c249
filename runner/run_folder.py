"""The folder of one run: who owns it, what is in it, and whether there is room.

run.json        the plan that owns the folder, written before anything else
attempts/       what was asked of each attempt, and what came of it
checkpoints/    the trainer's state, for --resume
adapter/        the trained adapter (model/ after full fine-tuning), with the tokenizer
report.json     predicted beside measured; the run is complete when it is there
report.html     the same for a browser
.lock           held while a run works here (run_lock.py)
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftadvise.estimator.plan_file import PlanFile, write_text_atomically
from ftadvise.profiles.errors import InputError
from ftadvise.runner.checkpoints import all_checkpoints, checkpoints_of, damage, last_checkpoint
from ftadvise.runner.durable import NEW, put_in_place, remove_folder, sweep
from ftadvise.runner.run_lock import LOCK_FILES, check_unlocked

__all__ = [
    "RUN_SCHEMA",
    "bytes_on_disk",
    "check_run_folder",
    "claim_run_folder",
    "last_checkpoint",
    "make_run_folder",
    "release_run_folder",
    "write_folder_atomically",
]
RUN_SCHEMA = "ftadvise.run/1"
_OTHER_BYTES = 64 << 20
"""Tokenizer, trainer state and reports, generously."""


def check_run_folder(folder: Path, plan_file: PlanFile, *, resume: bool, rehearse: bool) -> None:
    """Check that this run may go into `folder`, which need not exist yet; leaves no trace.

    Raises:
        InputError: not a folder, not writable, another run works there, it holds another run (or this one, without `resume`), nothing
            to resume, or the disk is too small for what the run will write.
    """
    elsewhere = "choose another folder with --out"
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: the output must be a folder, this is a file", hint=elsewhere)
    check_unlocked(folder)
    owner = _owner(folder)
    if owner is not None and owner != _identity(plan_file, rehearse):
        raise InputError(f"{folder}: already holds another run", hint=elsewhere)
    if owner is not None and (folder / "report.json").exists():
        raise InputError(f"{folder}: already holds this run, finished", hint=f"ftadvise report {folder}, or {elsewhere}")
    if owner is not None and not resume and all_checkpoints(folder):
        raise InputError(f"{folder}: already holds this run, unfinished", hint=f"continue it with --resume, or {elsewhere}")
    if owner is None and resume:
        raise InputError(f"{folder}: there is no run to resume", hint="start it without --resume")
    if owner is not None and resume:
        _check_resumable(folder)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):  # permissions alone do not tell (read-only mounts, root, network folders)
            pass
    except OSError as error:
        raise InputError(f"{folder}: not writable ({error.strerror or error})", hint=elsewhere) from None
    needed, free = _OTHER_BYTES + (0 if rehearse else bytes_on_disk(plan_file)), shutil.disk_usage(existing).free
    if needed > free:
        raise InputError(
            f"{folder}: not enough disk: the run writes up to {needed / (1 << 30):.2f} GiB, {free / (1 << 30):.2f} GiB are free",
            hint=f"free some space, or {elsewhere} on another disk",
        )


def _check_resumable(folder: Path) -> None:
    """Refuse a run of which only damaged checkpoints are left; one that was stopped before its first checkpoint begins again."""
    found = all_checkpoints(folder)
    if found and last_checkpoint(folder) is None:
        reason = damage(found[-1])
        raise InputError(
            f"{folder}: no checkpoint can be used; the newest is {found[-1].name}: {reason}",
            hint=f"to begin again: rm -r {checkpoints_of(folder)}",
        )


def make_run_folder(folder: Path) -> None:
    """Make the folder, with those above it.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror or error})", hint="choose another folder with --out") from None


def claim_run_folder(folder: Path, plan_file: PlanFile, *, rehearse: bool) -> None:
    """Clear away what a killed run left half-written, and write run.json: from now on the folder belongs to this run.

    Call it with the folder made and locked (`make_run_folder`, `lock_run_folder`).

    Raises:
        InputError: it cannot be written.
    """
    try:
        for place in (folder, checkpoints_of(folder)):
            sweep(place)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror or error})", hint="choose another folder with --out") from None
    document = {"schema": RUN_SCHEMA, "owner": _identity(plan_file, rehearse)}
    write_text_atomically(folder / "run.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def release_run_folder(folder: Path) -> None:
    """Undo a claim when there is nothing to resume and nothing to show: a run that never got anywhere leaves nothing behind."""
    if last_checkpoint(folder) is not None or (folder / "report.json").exists():
        return
    for name in ("checkpoints", "attempts"):
        remove_folder(folder / name)
    with contextlib.suppress(OSError):
        sweep(folder)
    for name in ("run.json", *LOCK_FILES):
        with contextlib.suppress(OSError):
            (folder / name).unlink()
    with contextlib.suppress(OSError):  # not empty: it was there before
        folder.rmdir()


def bytes_on_disk(plan_file: PlanFile) -> int:
    """What the run writes at most: the trained weights, and two checkpoints (the new one is complete before the old one goes).

    A checkpoint holds the trained weights and the optimizer state, as large on disk as predicted in memory.
    """
    parts = plan_file.predicted.get("memory", {}).get("components", {})
    if not isinstance(parts, dict):
        return 0
    sizes = {name: parts.get(name, 0) for name in ("weights", "adapters", "optimizer_state")}
    if not all(isinstance(size, int) for size in sizes.values()):
        return 0
    trained: int = sizes["weights"] if plan_file.recipe.method == "full" else sizes["adapters"]
    return 3 * trained + 2 * int(sizes["optimizer_state"])


def write_folder_atomically(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary folder, then put it in place of `folder`, which stays until then."""
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{NEW}{folder.name}-"))
    try:
        write(temporary)
        temporary.chmod(0o755)
        put_in_place(temporary, folder)
    except BaseException:
        remove_folder(temporary)
        raise


def _identity(plan_file: PlanFile, rehearse: bool) -> dict[str, Any]:
    """What makes two runs the same run: model, recipe and data, and whether it is a rehearsal."""
    document = plan_file.to_dict()
    return {key: document[key] for key in ("model", "recipe", "data")} | {"rehearse": rehearse}


def _owner(folder: Path) -> dict[str, Any] | None:
    """The identity written into run.json; None for a folder without a run."""
    path = folder / "run.json"
    if not path.exists():
        if any((folder / name).exists() for name in ("report.json", "adapter", "checkpoints")):
            raise InputError(f"{folder}: holds results but no run.json that says whose", hint="choose another folder with --out")
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        owner = document["owner"] if document["schema"] == RUN_SCHEMA else None
    except (OSError, ValueError, KeyError, TypeError):
        owner = None
    if not isinstance(owner, dict):
        raise InputError(f"{path}: not readable as a run of this version", hint="choose another folder with --out")
    return owner
