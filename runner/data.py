"""Training data: the rows of a file, checked.

Three row shapes are understood: instruction / input / output (Alpaca), `messages` (chat), and `text`. Reading needs no torch, so that
`run` finds a broken file before it loads a model.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ftadvise.profiles.errors import InputError, did_you_mean

Shape = Literal["instruction", "messages", "text"]
_COLUMNS: dict[Shape, tuple[str, ...]] = {"messages": ("messages",), "instruction": ("instruction", "output"), "text": ("text",)}
_SHAPES_HINT = "a row needs instruction and output (input is optional), or messages, or text"
_ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Row:
    """One training example. Instruction rows have a prompt and an answer, text rows only a `text`, chat rows only `turns`."""

    shape: Shape
    prompt: str | None = None
    text: str = ""
    """The answer to learn, or the whole text."""
    turns: tuple[tuple[str, str], ...] = ()
    """(role, content) of each message."""


@dataclass(frozen=True, slots=True)
class RowSet:
    """The rows of one file, and what identifies the file."""

    path: Path
    rows: tuple[Row, ...]
    sha256: str
    dropped: int
    """Rows with nothing to learn (an empty answer), left out."""


def demo_data_path() -> Path:
    """The bilingual instruction set that comes with ftadvise.

    Raises:
        InputError: the installation lacks it.
    """
    path = Path(__file__).resolve().parent / "demo_data.jsonl"
    if not path.is_file():
        raise InputError(f"{path}: the demo data is missing from this installation", hint="pip install --force-reinstall ftadvise")
    return path


def load_rows(path: Path) -> RowSet:
    """Read a `.jsonl`, `.json` (one array) or `.csv` file.

    Raises:
        InputError: missing, unreadable, empty, not UTF-8 (names the byte), a broken line (names it), lacking columns, another
            kind of file, or nothing to learn in any row.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such data file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}", hint=f"iconv -f GB18030 -t UTF-8 {path} (or your encoding)") from None
    if not text.strip():
        raise InputError(f"{path}: the data file is empty", hint=_SHAPES_HINT)
    readers = {".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: data files are {', '.join(readers)}, not {path.suffix or 'without an ending'}")
    parsed = reader(path, text)
    if not parsed:
        raise InputError(f"{path}: the data file holds no rows", hint=_SHAPES_HINT)
    rows = [_row(f"{path}, {place}", values) for place, values in parsed]
    kept = tuple(row for row in rows if row is not None)
    if not kept:
        raise InputError(f"{path}: no row has anything to learn (every output is empty)", hint=_SHAPES_HINT)
    return RowSet(path, kept, hashlib.sha256(content).hexdigest(), dropped=len(rows) - len(kept))


def _jsonl(path: Path, text: str) -> list[tuple[str, Any]]:
    # split at line feeds only: str.splitlines would also cut at U+2028, which JSON strings may hold
    lines = [(f"line {number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return [(place, _parse_json(f"{path}, {place}", line)) for place, line in lines]


def _json(path: Path, text: str) -> list[tuple[str, Any]]:
    rows = _parse_json(str(path), text)
    if not isinstance(rows, list):
        raise InputError(f"{path}: a .json data file is one array of rows", hint="one object per line belongs into a .jsonl file")
    return [(f"row {number}", row) for number, row in enumerate(rows, 1)]


def _csv(path: Path, text: str) -> list[tuple[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = []
        for values in reader:
            if None in values or None in values.values():
                raise InputError(f"{path}, line {reader.line_num}: {len(reader.fieldnames or [])} columns expected")
            rows.append((f"line {reader.line_num}", dict(values)))
        return rows
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: broken CSV ({error})") from None


def _parse_json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        spot = f"line {error.lineno}, " if "\n" in text.strip() else ""
        raise InputError(f"{where}: broken JSON, {spot}column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise InputError(f"{where}: nested too deeply") from None


def _row(where: str, values: Any) -> Row | None:
    """One checked row; None when there is nothing to learn in it."""
    if not isinstance(values, dict):
        raise InputError(f"{where}: a row is an object, not {type(values).__name__}", hint=_SHAPES_HINT)
    shape = next((shape for shape, columns in _COLUMNS.items() if all(column in values for column in columns)), None)
    if shape is None:
        names = [str(name) for name in values][:8]
        known = [column for columns in _COLUMNS.values() for column in columns]
        near = next((hint for name in names if name not in known and (hint := did_you_mean(name, known))), None)
        raise InputError(f"{where}: columns are missing, found {', '.join(names) or 'none'}", hint=near or _SHAPES_HINT)
    if shape == "messages":
        return _conversation(where, values["messages"])
    columns = ("instruction", "input", "output") if shape == "instruction" else ("text",)
    fields = {name: values.get(name) or "" for name in columns}
    wrong = next((name for name, value in fields.items() if not isinstance(value, str)), None)
    if wrong:
        raise InputError(f"{where}: {wrong} must be text, not {type(fields[wrong]).__name__}")
    if shape == "text":
        return Row(shape, text=fields["text"]) if fields["text"].strip() else None
    prompt = fields["instruction"] + (f"\n\n{fields['input']}" if fields["input"].strip() else "")
    return Row(shape, prompt, fields["output"]) if fields["output"].strip() else None


def _conversation(where: str, messages: Any) -> Row | None:
    if not isinstance(messages, list):
        raise InputError(f"{where}: messages must be a list, not {type(messages).__name__}")
    turns = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str) or message.get("role") not in _ROLES:
            raise InputError(f"{where}: each message needs a role ({', '.join(_ROLES)}) and content as text")
        turns.append((message["role"], message["content"]))
    if not any(role == "assistant" and content.strip() for role, content in turns):
        return None
    return Row("messages", turns=tuple(turns))
