"""Training data: what the settings name, read, checked, and split into rows to learn and rows to evaluate on.

Nothing here needs torch, so that `run` finds a broken file before it loads a model, and `plan` can look at the lengths. Parquet and Arrow
need pyarrow, the hub needs `datasets`; both come with ftadvise[run].
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

from ftadvise.estimator.data_settings import DataSettings
from ftadvise.profiles.errors import InputError
from ftadvise.runner.data.distinct import held_back, row_key
from ftadvise.runner.data.formats import FORMAT_NAMES, NEEDED
from ftadvise.runner.data.reading import Problems, Reader
from ftadvise.runner.data.rows import DataFile, Problem, Row, RowSet, Skipped

__all__ = ["FORMAT_NAMES", "DataFile", "Problem", "Row", "RowSet", "Skipped", "demo_data_path", "load_rows"]
_MOST_CLASSES_NAMED = 30


def demo_data_path() -> Path:
    """The bilingual instruction set that comes with ftadvise.

    Raises:
        InputError: the installation lacks it.
    """
    path = Path(__file__).resolve().parents[1] / "demo_data.jsonl"
    if not path.is_file():
        raise InputError(f"{path}: the demo data is missing from this installation", hint="pip install --force-reinstall ftadvise")
    return path


def load_rows(settings: DataSettings) -> RowSet:
    """Read what the settings name, and hold back what is to be evaluated on.

    Raises:
        InputError: missing, unreadable or broken data, an unknown format or column, or nothing to learn in any row.
    """
    name = str(demo_data_path()) if settings.path is None else settings.path
    problems = Problems()
    reader = Reader(settings, problems)
    rows = _read(reader, name)
    eval_rows: list[Row] = []
    eval_reader = Reader(settings, problems)
    if settings.eval_path is not None:
        eval_rows = _read(eval_reader, settings.eval_path)
    labels, (rows, eval_rows) = _with_classes((rows, eval_rows), settings.labels or reader.class_names or eval_reader.class_names)
    keys = [row_key(row) for row in rows]
    rows, keys = _distinct(rows, keys, problems, drop=settings.drop_duplicates)
    if eval_rows:
        eval_rows = _unlearned(settings.eval_path or "", eval_rows, frozenset(keys), problems, drop=settings.drop_duplicates)
    if settings.eval_share:
        chosen = held_back(keys, settings.eval_share)
        eval_rows = [row for row, key in zip(rows, keys, strict=True) if key in chosen]
        rows = [row for row, key in zip(rows, keys, strict=True) if key not in chosen]
        if not rows:
            raise InputError(f"{name}: eval_share {settings.eval_share:g} leaves no row to learn", hint="add rows, or use a smaller share")
    return RowSet(
        path=name,
        rows=tuple(rows),
        eval_rows=tuple(eval_rows),
        sha256=_fingerprint(reader.files),
        labels=labels,
        files=tuple(reader.files),
        eval_files=tuple(eval_reader.files),
        skipped=(*reader.skipped, *eval_reader.skipped),
        counts=tuple(sorted(problems.counts.items())),
        problems=tuple(problems.listed),
        duplicates_dropped=settings.drop_duplicates,
    )


def _read(reader: Reader, name: str) -> list[Row]:
    rows = reader.read(name)
    if not sum(file.rows for file in reader.files):
        raise InputError(f"{name}: the data holds no rows", hint=NEEDED)
    if not rows:
        raise InputError(f"{name}: no row has anything to learn (every answer is empty, or every row is broken)", hint=NEEDED)
    return rows


def _distinct(rows: list[Row], keys: list[bytes], problems: Problems, *, drop: bool) -> tuple[list[Row], list[bytes]]:
    """Note equal rows; `drop` keeps the first of each."""
    first: dict[bytes, str] = {}
    kept = []
    for row, key in zip(rows, keys, strict=True):
        if key in first:
            problems.add("duplicate", row.source, f"says the same as {first[key]}")
        else:
            first[key] = row.source
        kept.append(not drop or first[key] is row.source)
    if all(kept):
        return rows, keys
    return [row for row, keep in zip(rows, kept, strict=True) if keep], list(first)


def _unlearned(name: str, eval_rows: list[Row], learned: frozenset[bytes], problems: Problems, *, drop: bool) -> list[Row]:
    """The evaluation rows that are not among those learned: what has been learned proves nothing."""
    kept, keys = [], []
    for row in eval_rows:
        key = row_key(row)
        if key in learned:
            problems.add("leaked", row.source, "is among the rows to learn, so it is not evaluated")
        else:
            kept.append(row)
            keys.append(key)
    if not kept:
        raise InputError(f"{name}: every row is also among those to learn, so nothing is left to evaluate on", hint="use other rows")
    return _distinct(kept, keys, problems, drop=drop)[0]


def _with_classes(parts: tuple[list[Row], list[Row]], names: Sequence[str]) -> tuple[tuple[str, ...], tuple[list[Row], list[Row]]]:
    """The classes, and the rows with the question which of them it is. `names` are those of the classes 0, 1, ..."""
    if not any(row.label is not None for rows in parts for row in rows):
        return (), parts

    def named(row: Row) -> str:
        label = row.label or ""
        if not names or label in names:
            return label
        if label.isdecimal() and int(label) < len(names):
            return names[int(label)]
        raise InputError(f"{row.source}: the label {label[:60]!r} is none of {', '.join(names)}", hint="--labels names them all, in order")

    found = {named(row) for rows in parts for row in rows if row.label is not None}
    labels = tuple(name for name in names if name in found) if names else tuple(sorted(found))
    choice = f"one of: {', '.join(labels)}." if len(labels) <= _MOST_CLASSES_NAMED else "its class only."
    question = f"Classify the text. Answer with {choice}"

    def asked(row: Row) -> Row:
        if row.label is None:
            return row
        return dataclasses.replace(row, prompt=f"{question}\n\n{row.prompt}", text=named(row), label=named(row))

    train, evaluation = ([asked(row) for row in rows] for rows in parts)
    return labels, (train, evaluation)


def _fingerprint(files: Sequence[DataFile]) -> str:
    """The hash of the one file; of several, the hash of their hashes and names, so that renaming or reordering counts."""
    if len(files) == 1:
        return files[0].sha256
    listed = "".join(f"{file.sha256}  {Path(file.path).name}\n" for file in files)
    return hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest()
