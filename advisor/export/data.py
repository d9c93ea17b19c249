"""The plan's training data as another trainer has to find it."""

from __future__ import annotations

import csv
import importlib.resources
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ftadvise.advisor.export.words import say
from ftadvise.advisor.texts import Text
from ftadvise.estimator.data_settings import DataSettings, Learn
from ftadvise.estimator.plan_file import PlanFile

Shape = Literal["instruction", "messages", "text"]
DEMO_NAME = "ftadvise-demo.jsonl"
_FIRST_BYTES = 1 << 20
_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv")


@dataclass(frozen=True, slots=True)
class Data:
    """Where the rows are and what they look like.

    Args:
        path: absolute, or (the demo set) the name of a file that is exported along.
        shape: instruction / input / output, messages (role, content), or text.
        format: what `datasets.load_dataset` calls it: "json" (also for JSON lines) or "csv".
        files: what has to be exported along, name and content.
        note: what the reader must know about it.
    """

    path: str
    shape: Shape
    format: Literal["json", "csv"]
    files: Mapping[str, str] = field(default_factory=dict)
    note: Text | None = None
    learn: Learn = "answers"

    @property
    def learns_all(self) -> bool:
        """Whether every token is learned; of a text always."""
        return self.learn == "all" or self.shape == "text"


def data_of(plan_file: PlanFile) -> Data:
    """The plan's data, by its first row; what other trainers cannot read is assumed to hold instructions, and the note says so."""
    settings = plan_file.data
    if settings.path is None:
        demo = (importlib.resources.files("ftadvise") / "runner" / "demo_data.jsonl").read_text(encoding="utf-8")
        return Data(DEMO_NAME, "instruction", "json", {DEMO_NAME: demo}, say("data_demo"), settings.learn)
    path = Path(settings.path).expanduser()
    form: Literal["json", "csv"] = "csv" if path.suffix.lower() == ".csv" else "json"
    try:
        shape, note = _shape(_first_row(path, form)), _left_out(settings)
        if path.suffix.lower() not in _ENDINGS or settings.format or settings.columns:
            raise ValueError("another format")
    except (OSError, ValueError, RecursionError, csv.Error, StopIteration) as error:
        why = getattr(error, "strerror", None) or "not a data file"
        shape, note = "instruction", say("data_unread", why=why)
    return Data(str(path.absolute()), shape, form, note=note, learn=settings.learn)


def _left_out(settings: DataSettings) -> Text | None:
    """The settings that other trainers are not told: they learn every row, in the model's own template."""
    names = ("eval_share", "eval_path", "template", "labels", "skip_broken", "drop_duplicates")
    given = [name for name in names if getattr(settings, name) not in (None, False, 0.0, ())]
    return say("data_settings", settings=", ".join(given)) if given else None


def _first_row(path: Path, form: str) -> Mapping[str, Any]:
    with path.open("rb") as file:
        text = file.read(_FIRST_BYTES).decode("utf-8-sig", errors="replace")
    if form == "csv":
        return dict.fromkeys(next(csv.reader(io.StringIO(text))))
    row, _ = json.JSONDecoder().raw_decode(text[text.index("{") :])  # a .json file is one array of rows
    return dict(row)


def _shape(row: Mapping[str, Any]) -> Shape:
    """The same order of preference as ftadvise.runner.data."""
    if "messages" in row:
        return "messages"
    if "instruction" in row and "output" in row:
        return "instruction"
    if "text" in row:
        return "text"
    raise ValueError("no column that we know")
