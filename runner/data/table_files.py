"""Rows of Parquet and Arrow files, batch by batch, through pyarrow (which comes with the `datasets` library)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftadvise.profiles.errors import InputError
from ftadvise.runner.data.sources import ending

_BATCH = 1000


def read_table_file(path: Path) -> Iterator[tuple[str, Any]]:
    """("row N", the row as a mapping of columns) of each row.

    Raises:
        InputError: pyarrow is missing, or it cannot read the file.
    """
    pyarrow = _pyarrow(path)
    with _explaining(path):
        if ending(path) == ".parquet":
            from pyarrow.parquet import ParquetFile

            with ParquetFile(path) as file:
                yield from _rows(file.iter_batches(batch_size=_BATCH))
            return
        with pyarrow.memory_map(str(path)) as source, _arrow_reader(pyarrow, source) as reader:
            batches = reader if hasattr(reader, "read_next_batch") else map(reader.get_batch, range(reader.num_record_batches))
            yield from _rows(batches)


def label_names(path: Path) -> Mapping[str, tuple[str, ...]]:
    """Names of the classes by column, where the `datasets` library has written them into the file."""
    pyarrow = _pyarrow(path)
    with _explaining(path):
        if ending(path) == ".parquet":
            from pyarrow.parquet import read_schema

            metadata = read_schema(path).metadata
        else:
            with pyarrow.memory_map(str(path)) as source, _arrow_reader(pyarrow, source) as reader:
                metadata = reader.schema.metadata
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {str(column): tuple(map(str, kind["names"])) for column, kind in features.items() if kind.get("_type") == "ClassLabel"}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _rows(batches: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _BATCH):
            for row in batch.slice(start, _BATCH).to_pylist():
                number += 1
                yield f"row {number}", row


def _arrow_reader(pyarrow: Any, source: Any) -> Any:
    """A reader of either Arrow format: the `datasets` library writes streams, others write files."""
    try:
        return pyarrow.ipc.open_stream(source)
    except pyarrow.ArrowInvalid:
        source.seek(0)
        return pyarrow.ipc.open_file(source)


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        raise InputError(f"{path}: reading {ending(path)} needs pyarrow", hint="pip install 'ftadvise[run]'") from None
    return pyarrow


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises into one line."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        problem = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: not a whole {ending(path)[1:]} file ({problem})") from None
