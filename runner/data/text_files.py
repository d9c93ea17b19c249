"""Rows of text files: JSON lines, JSON, CSV, TSV and plain text, each also compressed with gzip.

Every reader yields (place, value): the line (or row and line) for people, and the row as it stands there, or the `InputError` that says
what is wrong with it. What makes the rest of a file unreadable is raised. Memory is that of one line, but for JSON arrays, which are read
whole.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import shlex
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from ftadvise.profiles.errors import InputError
from ftadvise.runner.data.sources import ending

Record = tuple[str, Any]
_SPACE = re.compile(r"[ \t\n\r]*")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_MARK = b"\xef\xbb\xbf"
_DELIMITERS = ",\t;"


def read_text_file(path: Path) -> Iterator[Record]:
    """The records of a text file by its ending.

    Raises:
        InputError: unreadable, not UTF-8 (names byte and line), or broken in a way that no row can be told from the next.
    """
    try:
        with _open(path) as file:
            start = file.read(4)
        if start.startswith(_UTF16):
            raise InputError(f"{path}, line 1: not UTF-8 but UTF-16, at byte 0", hint=_convert(path, "UTF-16"))
        yield from _READERS[ending(path)](path)
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _open(path: Path) -> BinaryIO:
    opened = gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # noqa: SIM115 - the callers close it
    return cast(BinaryIO, opened)


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(number, first byte, content) of each line; only line feeds end one, because JSON strings may hold U+2028."""
    offset = 0
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            yield number, offset, line.removeprefix(_MARK) if number == 1 else line
            offset += len(line)


def _jsonl(path: Path) -> Iterator[Record]:
    for number, offset, line in _lines(path):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            start = offset + error.start
            yield f"line {number}", InputError(f"not UTF-8 at byte {start}", hint=_convert(path, _encoding_of(line)))
            continue
        if text.strip():
            yield f"line {number}", _parsed(text)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        return InputError(f"broken JSON, column {error.colno}: {error.msg}")
    except RecursionError:
        return InputError("nested too deeply")
    except ValueError as error:  # a number of thousands of digits
        return InputError(f"broken JSON: {' '.join(str(error).split())[:80]}")


def _json(path: Path) -> Iterator[Record]:
    """The elements of an array one by one, or JSON lines: the hub has many such files under this ending."""
    with _open(path) as file:
        text = file.read().decode("utf-8-sig")
    at, number, line, counted = _skip(text, 0), 0, 1, 0
    if not text.startswith("[", at):
        if text.startswith("{", at) and _first_line_is_complete(text[at:]):
            yield from _jsonl(path)
            return
        if text[at:].strip():
            raise InputError(
                f"{path}: a .json data file is one array of rows, or one object per line", hint="put [ ] around the rows, or name it .jsonl"
            )
        return
    at = _skip(text, at + 1)
    while not text.startswith("]", at):
        number, line, counted = number + 1, line + text.count("\n", counted, at), at
        place = f"row {number}, line {line}"
        try:
            value, at = _DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, row {number}, line {error.lineno}: broken JSON, column {error.colno}: {error.msg}") from None
        except RecursionError:
            raise InputError(f"{path}, {place}: nested too deeply") from None
        except ValueError as error:
            raise InputError(f"{path}, {place}: broken JSON: {' '.join(str(error).split())[:80]}") from None
        yield place, value
        at = _skip(text, at)
        if text.startswith(",", at):
            at = _skip(text, at + 1)
        elif not text.startswith("]", at):
            raise InputError(f"{path}, {place}: broken JSON: a comma or ] must follow the row; is the file cut off?")
    if text[at + 1 :].strip():
        raise InputError(f"{path}: broken JSON: more text follows the array of rows")


_DECODER = json.JSONDecoder()


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _first_line_is_complete(text: str) -> bool:
    return not isinstance(_parsed(text.split("\n", 1)[0]), InputError)


def _table(path: Path) -> Iterator[Record]:
    """CSV and TSV with a header line. The separator is whichever of comma, tab and semicolon the header has most of."""
    csv.field_size_limit(2**31 - 1)
    with io.TextIOWrapper(_open(path), encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        file.seek(0)
        delimiter = "\t" if ending(path) == ".tsv" else max(_DELIMITERS, key=header.count)
        # tab-separated files of benchmarks hold lone quotation marks; those of spreadsheets quote whole fields
        plain = delimiter == "\t" and not re.search(r'(?:^|\t)"[^\t]*"(?:\t|\r?\n|$)', header)
        quoting: Literal[0, 3] = csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
        first = 1
        try:
            names = next(reader, [])
            twice = next((name for position, name in enumerate(names) if name in names[:position]), None)
            if twice is not None:
                raise InputError(f"{path}, line 1: two columns are named {twice!r}")
            first = reader.line_num + 1
            for values in reader:
                place, first = f"line {first}", reader.line_num + 1
                if len(values) == len(names):
                    yield place, dict(zip(names, values, strict=True))
                elif values:
                    yield place, InputError(f"{len(names)} columns expected, found {len(values)}")
        except csv.Error as error:
            raise InputError(f"{path}, line {first}: broken CSV ({error})") from None


def _text(path: Path) -> Iterator[Record]:
    """Every line that is not empty is a row."""
    for number, offset, line in _lines(path):
        try:
            text = line.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            start = offset + error.start
            yield f"line {number}", InputError(f"not UTF-8 at byte {start}", hint=_convert(path, _encoding_of(line)))
            continue
        if text.strip():
            yield f"line {number}", {"text": text}


_READERS = {".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _table, ".tsv": _table, ".txt": _text}


def _not_utf8(path: Path) -> InputError:
    """The error that names where: the file is read again, line by line."""
    for number, offset, line in _lines(path):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            start = offset + error.start
            return InputError(f"{path}, line {number}: not UTF-8 at byte {start}", hint=_convert(path, _encoding_of(line)))
    return InputError(f"{path}: not UTF-8", hint=_convert(path, None))


def _encoding_of(line: bytes) -> str | None:
    """The encoding that a line that is not UTF-8 can be read as, if it is a usual one. Latin-1 reads everything, so it is no evidence."""
    if line.count(0) > len(line) // 4:
        return "UTF-16"
    for encoding in ("GB18030", "Big5", "Shift_JIS"):
        try:
            if any("\u3000" <= character <= "\u9fff" for character in line.decode(encoding)):
                return encoding
        except UnicodeDecodeError:
            continue
    return "Windows-1252"


def _convert(path: Path, encoding: str | None) -> str:
    return f"iconv -f {encoding or 'ENCODING'} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(f'{path.stem}-utf8{path.suffix}')}"
