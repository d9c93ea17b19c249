"""From the records of files to rows: the format is decided once for each file, and what is wrong with a row is told or noted."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ftadvise.estimator.data_settings import DataSettings
from ftadvise.profiles.errors import InputError
from ftadvise.runner.data.formats import Format, formats_for, missing_columns
from ftadvise.runner.data.hub import HubRows
from ftadvise.runner.data.rows import LISTED, DataFile, Kind, Problem, Row, Skipped
from ftadvise.runner.data.sources import HubName, ending, find_sources
from ftadvise.runner.data.table_files import label_names, read_table_file
from ftadvise.runner.data.text_files import Record, read_text_file

_IDS = ("id", "uid", "_id", "prompt_id")
_BLOCK = 1 << 20


class Problems:
    """What was wrong with rows; all are counted, the first ones of each kind listed."""

    def __init__(self) -> None:
        self.counts: Counter[Kind] = Counter()
        self.listed: list[Problem] = []

    def add(self, kind: Kind, source: str, text: str) -> None:
        """Note one."""
        self.counts[kind] += 1
        if self.counts[kind] <= LISTED:
            self.listed.append(Problem(kind, source, text))


class Reader:
    """Reads every file that a name stands for."""

    def __init__(self, settings: DataSettings, problems: Problems) -> None:
        """Raises:
        InputError: an unknown format or role.
        """
        self._given = dict(settings.columns)
        self._candidates = formats_for(settings.format, self._given)
        self._skip_broken, self._problems = settings.skip_broken, problems
        self.files: list[DataFile] = []
        self.skipped: list[Skipped] = []
        self.class_names: tuple[str, ...] = ()
        """Names of the classes 0, 1, ..., where a file says so."""

    def read(self, name: str) -> list[Row]:
        """The rows that have something to learn.

        Raises:
            InputError: nothing to read, or (unless broken rows are to be skipped) a row that cannot be read.
        """
        found, self.skipped = find_sources(name)
        rows: list[Row] = []
        if isinstance(found, HubName):
            hub_rows = HubRows(found)
            digest = hashlib.sha256()
            rows += self._rows(f"{found.id}:{found.split}", _hashed(hub_rows, digest), hub_rows.label_names)
            self.files[-1] = dataclasses.replace(self.files[-1], sha256=digest.hexdigest())
        else:
            for path in found:
                binary = ending(path) in (".parquet", ".arrow")
                records = read_table_file(path) if binary else read_text_file(path)
                rows += self._rows(str(path), records, label_names(path) if binary else {})
                self.files[-1] = dataclasses.replace(self.files[-1], sha256=file_sha256(path))
        return rows

    def _rows(self, where: str, records: Iterable[Record], names: Mapping[str, Sequence[str]]) -> list[Row]:
        rows: list[Row] = []
        ids: dict[Any, str] = {}
        chosen: Format | None = None
        first_place, why, count, short = "", "", 0, Path(where).name
        for place, record in records:
            count += 1
            try:
                values = _mapping(record)
                if chosen is None:
                    chosen = next((each for each in self._candidates if each.columns_of(values, self._given) is not None), None)
                    if chosen is None:
                        raise missing_columns(values, self._candidates, self._given)
                    columns = chosen.columns_of(values, self._given) or {}
                    first_place, why = place, ", ".join(columns.values())
                    self.class_names = self.class_names or tuple(names.get(columns.get("label", ""), ()))
                row = chosen.build(self._values(values, chosen, first_place))
            except InputError as error:
                if not self._skip_broken:
                    raise InputError(f"{where}, {place}: {error}", hint=error.hint) from None
                self._problems.add("broken", f"{short}, {place}", str(error))
                continue
            if row is None:
                self._problems.add("empty", f"{short}, {place}", "nothing to learn")
                continue
            source = f"{short}, {place}"
            self._note_id(values, source, ids)
            rows.append(dataclasses.replace(row, source=source))
        self.files.append(DataFile(where, chosen.name if chosen else "", why, count, ""))
        return rows

    def _values(self, row: Mapping[str, Any], chosen: Format, first_place: str) -> dict[str, Any]:
        columns = chosen.columns_of(row, self._given)
        if columns is None:
            other = next((each for each in self._candidates if each.columns_of(row, self._given) is not None), None)
            if other is not None:
                raise InputError(
                    f"{other.name} format, while {first_place} is {chosen.name}: one file holds one format",
                    hint="put them into two files of a folder; --skip-broken leaves these rows out",
                )
            raise missing_columns(row, (chosen,), self._given)
        return {role: row[column] for role, column in columns.items()}

    def _note_id(self, values: Mapping[str, Any], source: str, ids: dict[Any, str]) -> None:
        value = next((values[name] for name in _IDS if name in values), None)
        if isinstance(value, (str, int)) and value != "":
            first = ids.setdefault(value, source)
            if first is not source:
                self._problems.add("duplicate_id", source, f"the id {str(value)[:60]!r} is also that of {first}")


def file_sha256(path: Path) -> str:
    """The fingerprint of a file's bytes."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    return digest.hexdigest()


def _mapping(record: Any) -> Mapping[str, Any]:
    if isinstance(record, InputError):
        raise record
    if not isinstance(record, Mapping):
        raise InputError(f"a row is an object, not {type(record).__name__}")
    return record


def _hashed(records: Iterable[Record], digest: Any) -> Iterable[Record]:
    for place, row in records:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass"))
        yield place, row
