"""Which files a name stands for: a file, a folder, a glob pattern, or a data set on the hub."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftadvise.profiles.errors import InputError, did_you_mean
from ftadvise.runner.data.rows import Skipped

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".parquet", ".arrow")
"""What is read; each also with .gz behind it, but for the last two, which are compressed inside."""
_BINARY = (".parquet", ".arrow")
_ABOUT = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
"""What the `datasets` library writes beside the rows."""
_HUB_NAME = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?:/(?P<config>[\w.-]+))?(?::(?P<split>[\w.\[\]%:+-]+))?")
_TRAIN = re.compile(r"(?:^|[\W_])train(?:ing)?(?:$|[\W_])", re.IGNORECASE)
_OTHER_SPLIT = re.compile(r"(?:^|[\W_])(?:test|testing|valid|validation|val|dev|eval|evaluation)(?:$|[\W_])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class HubName:
    """A data set on the hub: owner/name, with a configuration (owner/name/config) and a split (:split) where they are given."""

    id: str
    config: str | None
    split: str


def ending(path: Path) -> str:
    """The ending that says what the file holds: rows.jsonl.gz is ".jsonl"."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def find_sources(name: str) -> tuple[list[Path] | HubName, list[Skipped]]:
    """The files that `name` stands for, sorted by name, and what of a folder is left out; or the data set on the hub.

    A name that exists on this disk is that file or folder, whatever else it could be.

    Raises:
        InputError: nothing of that name, or nothing in it that can be read.
    """
    path = Path(name).expanduser()
    try:
        if path.is_dir():
            return _choose(name, sorted(path.iterdir()))
        if path.exists():
            return [_checked(path)], []
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if glob.has_magic(name):
        found = [Path(each) for each in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 - Path.glob has no absolute patterns
        return _choose(name, [each for each in found if not each.is_dir()])
    as_hub_name = _HUB_NAME.fullmatch(name)
    if as_hub_name and ending(Path(name)) not in ENDINGS and not name.startswith("."):
        return HubName(as_hub_name["id"], as_hub_name["config"], as_hub_name["split"] or "train"), []
    siblings = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    raise InputError(f"{name}: no such data file", hint=did_you_mean(path.name, siblings))


def _checked(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path}: not a file that can be read twice", hint="save the data into a file first")
    if ending(path) not in ENDINGS or (path.suffix.lower() == ".gz" and ending(path) in _BINARY):
        raise InputError(f"{path}: data files are {', '.join(ENDINGS)}, not {path.suffix or 'without an ending'}")
    return path


def _choose(name: str, paths: Sequence[Path]) -> tuple[list[Path], list[Skipped]]:
    """Of many paths those to learn from. Where files are named after splits, these are the training split's."""
    names = {path.name for path in paths}
    written_by_datasets = "dataset_info.json" in names or "state.json" in names
    chosen, skipped = [], []
    for path in paths:
        if path.name.startswith("."):
            continue
        why = _why_not(path, written_by_datasets)
        if why:
            skipped.append(Skipped(str(path), why))
        else:
            chosen.append(path)
    if any(_TRAIN.search(path.name) for path in chosen):
        others = [path for path in chosen if _OTHER_SPLIT.search(path.name) and not _TRAIN.search(path.name)]
        skipped += [Skipped(str(path), "another split; --eval-data evaluates on it") for path in others]
        chosen = [path for path in chosen if path not in others]
    if not chosen:
        inside = ", ".join(path.name for path in paths[:5]) or "nothing"
        raise InputError(f"{name}: no data file in it, found {inside}", hint=f"data files are {', '.join(ENDINGS)}")
    return chosen, skipped


def _why_not(path: Path, written_by_datasets: bool) -> str | None:
    if path.is_dir():
        return "a folder"
    if path.name in _ABOUT or (written_by_datasets and ending(path) == ".json"):
        return "about the data, not data"
    if not path.is_file():
        return "not a regular file"
    if ending(path) not in ENDINGS:
        return "not a data file"
    return None
