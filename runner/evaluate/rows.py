"""The rows to evaluate on: which, as tokens, and as prompts with a reference answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from ftadvise.profiles.errors import InputError
from ftadvise.runner.data import load_rows
from ftadvise.runner.data.rows import Row, RowSet, Turn
from ftadvise.runner.evaluate.losses import Encoded
from ftadvise.runner.finished_run import FinishedRun, data_settings_of
from ftadvise.runner.tokens import tokenize_rows


def rows_to_evaluate(run: FinishedRun, path: str | None) -> tuple[RowSet, tuple[Row, ...]]:
    """The data set in `path`, read as the run read its own (columns, labels), and its rows; None: the rows that the run held back.

    Raises:
        InputError: the data cannot be read, or nothing was held back.
    """
    settings = data_settings_of(run.report)
    if path is not None:
        data = load_rows(settings.replace(path=path, eval_path=None, eval_share=0.0))
        return data, data.rows
    if settings.eval_path is None and not settings.eval_share:
        raise InputError(f"{run.folder}: the run held no rows back for evaluation", hint="name some with --data FILE")
    data = load_rows(settings)
    return data, data.eval_rows


def drawn(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """At most `count` rows at random, in their order; all of them for 0."""
    if not count or len(rows) <= count:
        return list(rows)
    chosen = sorted(random.Random(seed).sample(range(len(rows)), count))  # noqa: S311 - not for secrets
    return [rows[number] for number in chosen]


def encoded(rows: Sequence[Row], run: FinishedRun, tokenizer: Any) -> list[Encoded | None]:
    """Each row as the trainer sees it, cut at the recipe's seq_len; None for one with nothing to learn there.

    Raises:
        InputError: there is nothing to learn in any row.
    """
    settings, length = data_settings_of(run.report), run.recipe.seq_len
    found: list[Encoded | None] = []
    refusal = None
    for row in rows:
        try:
            (tokens,), _ = tokenize_rows([row], tokenizer, length, learn=settings.learn)
            found.append({key: list(tokens[key])[:length] for key in ("input_ids", "labels")})
        except InputError as error:
            refusal = refusal or error
            found.append(None)
    if refusal is not None and not any(found):
        raise refusal
    return found


def question(row: Row) -> tuple[tuple[Turn, ...], str] | None:
    """The conversation up to the last answer, and that answer; None where a row does not end with one."""
    turns = row.dialogue
    if len(turns) < 2 or turns[-1][0] != "assistant" or not turns[-1][1].strip():
        return None
    return turns[:-1], turns[-1][1]
