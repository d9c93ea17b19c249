"""The rows of a data set, and what was found while reading them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Shape = Literal["instruction", "messages", "text"]
Kind = Literal["broken", "empty", "duplicate", "duplicate_id", "leaked"]
Turn = tuple[str, str]
"""(role, content); the roles are system, user, assistant and tool."""
LISTED = 100
"""How many problems of each kind are listed; all are counted."""


@dataclass(frozen=True, slots=True)
class Row:
    """One training example. Instruction rows have a prompt and an answer, text rows only a `text`, chat rows only `turns`."""

    shape: Shape
    prompt: str | None = None
    text: str = ""
    """The answer to learn, or the whole text."""
    turns: tuple[Turn, ...] = ()
    label: str | None = None
    """The class, where the data is a classification; then `text` is the same."""
    unlearned: tuple[int, ...] = ()
    """Positions in `turns` of what the assistant says but is not to learn."""
    source: str = field(default="", compare=False)
    """Where it stands: "rows.jsonl, line 7"."""

    @property
    def dialogue(self) -> tuple[Turn, ...]:
        """The turns of an instruction or a conversation; nothing for a text."""
        if self.shape == "instruction":
            return (("user", self.prompt or ""), ("assistant", self.text))
        return self.turns


@dataclass(frozen=True, slots=True)
class Problem:
    """One row that is broken, has nothing to learn, or is there twice."""

    kind: Kind
    source: str
    text: str


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file that was read. `why` says by what the format was recognised."""

    path: str
    format: str
    why: str
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file of the folder that was not read."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class RowSet:
    """The rows that are learned, those held back for evaluation, and what became of the others."""

    path: str
    rows: tuple[Row, ...]
    eval_rows: tuple[Row, ...] = ()
    sha256: str = ""
    """Of the file; of several, of the list of their hashes and names."""
    labels: tuple[str, ...] = ()
    """The classes of a classification, else nothing."""
    files: tuple[DataFile, ...] = ()
    eval_files: tuple[DataFile, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    counts: tuple[tuple[Kind, int], ...] = ()
    """How many rows of each kind of problem there are. Broken, empty and leaked ones are left out; duplicates only where asked for."""
    problems: tuple[Problem, ...] = ()
    """The first `LISTED` of each kind."""
    duplicates_dropped: bool = False

    @property
    def read(self) -> int:
        """Rows that the files hold."""
        return sum(file.rows for file in (*self.files, *self.eval_files))

    @property
    def dropped(self) -> int:
        """Rows that were read and are neither learned nor evaluated."""
        return self.read - len(self.rows) - len(self.eval_rows)

    def summary(self) -> dict[str, Any]:
        """JSON-ready: what was read, kept and left out, and why; the fingerprint."""
        return {
            "path": self.path,
            "sha256": self.sha256,
            "files": [_document(file) for file in self.files],
            "eval_files": [_document(file) for file in self.eval_files],
            "skipped_files": [{"path": each.path, "why": each.why} for each in self.skipped],
            "rows_read": self.read,
            "rows": len(self.rows),
            "eval_rows": len(self.eval_rows),
            "dropped": self.dropped,
            "problems": dict(self.counts),
            "duplicates_dropped": self.duplicates_dropped,
            "labels": list(self.labels),
        }


def _document(file: DataFile) -> dict[str, Any]:
    return {"path": file.path, "format": file.format, "why": file.why, "rows": file.rows, "sha256": file.sha256}
