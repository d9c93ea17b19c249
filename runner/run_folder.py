"""The folder of one run: who owns it, what is in it, and whether there is room.

run.json        the plan that owns the folder, written before anything else
checkpoints/    the trainer's state, for --resume
adapter/        the trained adapter (model/ after full fine-tuning), with the tokenizer
report.json     predicted beside measured; the run is complete when it is there
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftadvise.estimator.plan_file import PlanFile, write_text_atomically
from ftadvise.profiles.errors import InputError

RUN_SCHEMA = "ftadvise.run/1"
_OTHER_BYTES = 64 << 20
"""Tokenizer, trainer state and reports, generously."""


def check_run_folder(folder: Path, plan_file: PlanFile, *, resume: bool, rehearse: bool) -> None:
    """Check that this run may go into `folder`, which need not exist yet; leaves no trace.

    Raises:
        InputError: not a folder, not writable, holds another run (or this one, without `resume`), nothing to resume, or the disk is
            too small for what the run will write.
    """
    elsewhere = "choose another folder with --out"
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: the output must be a folder, this is a file", hint=elsewhere)
    owner = _owner(folder)
    if owner is not None and owner != _identity(plan_file, rehearse):
        raise InputError(f"{folder}: already holds another run", hint=elsewhere)
    if owner is not None and (folder / "report.json").exists():
        raise InputError(f"{folder}: already holds this run, finished", hint=f"ftadvise report {folder}, or {elsewhere}")
    if owner is not None and not resume and last_checkpoint(folder) is not None:
        raise InputError(f"{folder}: already holds this run, unfinished", hint=f"continue it with --resume, or {elsewhere}")
    if owner is None and resume:
        raise InputError(f"{folder}: there is no run to resume", hint="start it without --resume")
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


def claim_run_folder(folder: Path, plan_file: PlanFile, *, rehearse: bool) -> None:
    """Make the folder and write run.json: from now on it belongs to this run.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror or error})", hint="choose another folder with --out") from None
    document = {"schema": RUN_SCHEMA, "owner": _identity(plan_file, rehearse)}
    write_text_atomically(folder / "run.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def release_run_folder(folder: Path) -> None:
    """Undo a claim when there is nothing to resume and nothing to show: a run that never got anywhere leaves nothing behind."""
    if last_checkpoint(folder) is not None or (folder / "report.json").exists():
        return
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / "run.json").unlink(missing_ok=True)
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


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint, or None (the trainer writes trainer_state.json last)."""
    found = [path.parent for path in (folder / "checkpoints").glob("checkpoint-*/trainer_state.json")]
    numbered = [(int(path.name.rpartition("-")[2]), path) for path in found if path.name.rpartition("-")[2].isdigit()]
    return max(numbered)[1] if numbered else None


def write_folder_atomically(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary folder, then put it in place of `folder`."""
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        write(temporary)
        temporary.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)  # noqa: PTH105 - the function is named for what it does
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
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
