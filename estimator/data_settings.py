"""What a run is to learn from: which data, how it is read, what of it is held back for evaluation. Part of the plan file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ftadvise.profiles.errors import InputError, did_you_mean

Learn = Literal["answers", "all"]
_TEXT, _NAMES, _FLAG = "text or null", "a list of names", "true or false"


@dataclass(frozen=True, slots=True)
class DataSettings:
    """The `data` section of a plan. Paths stay as the user gave them; relative ones start at the folder the command runs in.

    Raises:
        InputError: on construction, for an eval_share outside [0, 1), an unknown `learn`, or eval_share together with eval_path.
    """

    path: str | None = None
    """A file, a folder, a glob pattern or a data set on the hub (owner/name, owner/name:split); None: the set that comes with ftadvise."""
    format: str | None = None
    """One of `runner.data.FORMATS`; None: detected."""
    columns: tuple[tuple[str, str], ...] = ()
    """(role, the column's name in the data), e.g. ("instruction", "question")."""
    labels: tuple[str, ...] = ()
    """Names of the classes 0, 1, ... of a classification whose labels are numbers."""
    eval_share: float = 0.0
    """The share of the distinct rows that is held back for evaluation."""
    eval_path: str | None = None
    """Rows for evaluation of their own, read like `path`."""
    learn: Learn = "answers"
    """"answers": only what the assistant says is learned; "all": every token."""
    template: str | None = None
    """A chat template instead of the model's own: a name of `runner.templates.BUILTIN`, or a Jinja file."""
    skip_broken: bool = False
    """Leave out rows that cannot be read, instead of stopping at the first."""
    drop_duplicates: bool = False
    """Keep only the first of equal rows."""

    def __post_init__(self) -> None:
        if self.learn not in get_args(Learn):
            raise InputError(f"learn must be answers or all, not {self.learn!r}", hint=did_you_mean(str(self.learn), get_args(Learn)))
        if not (math.isfinite(self.eval_share) and 0 <= self.eval_share < 1):
            raise InputError(f"eval_share must be at least 0 and less than 1, not {self.eval_share}")
        if self.eval_share and self.eval_path is not None:
            raise InputError("eval_share and eval_path both say what to evaluate on", hint="leave one of them out")

    def replace(self, **changes: Any) -> DataSettings:
        """A copy with other values, checked again."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """JSON- and YAML-ready; `columns` as a mapping of roles to names."""
        return dataclasses.asdict(self) | {"columns": dict(self.columns), "labels": list(self.labels)}


KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "path": ((str, type(None)), "a path or null"),
    "format": ((str, type(None)), _TEXT),
    "columns": ((dict,), "a mapping of roles to column names"),
    "labels": ((list,), _NAMES),
    "eval_share": ((int, float), "a number from 0 up to 1"),
    "eval_path": ((str, type(None)), "a path or null"),
    "learn": ((str,), "answers or all"),
    "template": ((str, type(None)), _TEXT),
    "skip_broken": ((bool,), _FLAG),
    "drop_duplicates": ((bool,), _FLAG),
}
"""The keys of the section, the types of their values, and what to say of another."""


def data_settings_from(values: Mapping[str, Any]) -> DataSettings:
    """The settings of a section whose keys and types have been checked; keys that are not there keep their default.

    Raises:
        InputError: a value out of range, or a name that is not text.
    """
    given = dict(values)
    columns, labels = given.pop("columns", {}), given.pop("labels", [])
    for name in (*columns, *columns.values(), *labels):
        if not isinstance(name, str):
            raise InputError(f"columns and labels are names, not {str(name)[:60]!r}", hint="put it in quotes")
    return DataSettings(**given, columns=tuple(columns.items()), labels=tuple(labels))
