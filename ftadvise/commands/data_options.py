"""The options that say what the data is and how it is read; the same for every command that reads data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

from ftadvise.estimator.data_settings import DataSettings, Learn
from ftadvise.profiles.errors import InputError

_F = TypeVar("_F", bound=Callable[..., Any])
DATA_HELP = "Training data: a file (JSON, JSONL, CSV, TSV, Parquet, Arrow, text), a folder, a glob pattern, or owner/name on the hub"
_OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--format", {"metavar": "NAME", "help": "The format of the rows (default: detected), e.g. alpaca, sharegpt, messages, text."}),
    ("--columns", {"multiple": True, "metavar": "ROLE=COLUMN,...", "help": "Columns of other names: instruction=question,output=answer."}),
    ("--labels", {"metavar": "NAMES", "help": "Names of the classes 0, 1, ... of a classification, separated by commas."}),
    ("--eval-share", {"type": float, "metavar": "SHARE", "help": "Hold this share of the rows back for evaluation, e.g. 0.05."}),
    ("--eval-data", {"metavar": "FILE", "help": "Evaluate on these rows."}),
    ("--learn", {"type": click.Choice(get_args(Learn)), "help": "Learn the answers only (default), or every token."}),
    ("--template", {"metavar": "NAME", "help": "Another chat template than the model's: alpaca, chatml, llama3, plain, or a Jinja file."}),
    ("--skip-broken", {"is_flag": True, "default": None, "help": "Leave out rows that cannot be read, instead of stopping."}),
    ("--drop-duplicates", {"is_flag": True, "default": None, "help": "Keep only the first of equal rows."}),
)


def data_options(command: _F) -> _F:
    """Add them all; those not given arrive as None."""
    for flag, settings in reversed(_OPTIONS):
        command = click.option(flag, **settings)(command)
    return command


def take_data_fields(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of `DataSettings` that were given, but for the path; they are removed from `options`.

    Raises:
        InputError: --columns that are not role=column.
    """
    given = {flag: options.pop(flag.lstrip("-").replace("-", "_"), None) for flag, _ in _OPTIONS}
    fields = {flag.lstrip("-").replace("-", "_"): value for flag, value in given.items() if value not in (None, ())}
    if "eval_data" in fields:
        fields["eval_path"] = fields.pop("eval_data")
    if "labels" in fields:
        fields["labels"] = tuple(name.strip() for name in fields["labels"].split(",") if name.strip())
    if "columns" in fields:
        fields["columns"] = tuple(_pair(part) for text in fields["columns"] for part in text.split(",") if part.strip())
    return fields


def data_settings(path: Any, fields: dict[str, Any]) -> DataSettings:
    """The settings for a path that may be None.

    Raises:
        InputError: a value out of range, or fields without a path.
    """
    if path is None and fields:
        flag = f"--{next(iter(fields)).replace('_', '-')}"
        raise InputError(f"{flag} says how data is read, and there is none", hint="add --data FILE")
    return DataSettings(None if path is None else str(path), **fields)


def _pair(text: str) -> tuple[str, str]:
    role, separator, column = (part.strip() for part in text.partition("="))
    if not (role and separator and column):
        raise InputError(f"--columns {text!r} is not ROLE=COLUMN", hint="--columns instruction=question,output=answer")
    return role, column
