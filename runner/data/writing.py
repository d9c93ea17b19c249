"""Rows written as JSON lines that every trainer reads: `messages`, or `text`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftadvise.estimator.plan_file import write_text_atomically
from ftadvise.profiles.errors import InputError
from ftadvise.runner.data.rows import Row, RowSet


def write_rows(path: Path, found: RowSet) -> list[tuple[Path, int]]:
    """Write the rows to learn, and those to evaluate on beside them (rows.eval.jsonl); what was written with how many rows.

    Raises:
        InputError: a file of the name is there already, or cannot be written.
    """
    parts: list[tuple[Path, Sequence[Row]]] = [(path, found.rows)]
    if found.eval_rows:
        parts.append((path.with_suffix(f".eval{path.suffix}"), found.eval_rows))
    for target, _ in parts:
        if target.exists():
            raise InputError(f"{target}: exists already", hint="choose another name with --write")
    for target, rows in parts:
        write_text_atomically(target, "".join(json.dumps(_document(row), ensure_ascii=False) + "\n" for row in rows))
    return [(target, len(rows)) for target, rows in parts]


def _document(row: Row) -> dict[str, Any]:
    if row.shape == "text":
        return {"text": row.text}
    messages: list[dict[str, Any]] = [{"role": role, "content": content} for role, content in row.dialogue]
    for at in row.unlearned:
        messages[at]["weight"] = 0
    return {"messages": messages}
