"""Rows of the run's own data as the model saw them in training: what quantisation methods calibrate on."""

from __future__ import annotations

import json

from ftadvise.estimator.data_settings import KINDS, data_settings_from
from ftadvise.runner.data import load_rows
from ftadvise.runner.finished_run import FinishedRun, load_run_tokenizer
from ftadvise.runner.tokens import tokenize_rows

ROWS = 256
"""GPTQ's authors calibrate on 128 sequences; GPTQModel's documentation recommends 256 and more."""


def calibration_file(run: FinishedRun) -> str:
    """JSON lines with "input_ids" and "attention_mask" of the first `ROWS` rows, cut at the run's seq_len.

    Raises:
        InputError: the data is gone or unreadable.
    """
    section = run.report.plan.get("data")
    values = {key: value for key, value in section.items() if key in KINDS} if isinstance(section, dict) else {}
    settings = data_settings_from(values)
    rows = load_rows(settings).rows[:ROWS]
    seq_len = run.recipe.seq_len
    encoded, _ = tokenize_rows(rows, load_run_tokenizer(run), seq_len, learn=settings.learn, template=settings.template)
    ids = [example["input_ids"][:seq_len] for example in encoded]
    return "".join(json.dumps({"input_ids": each, "attention_mask": [1] * len(each)}) + "\n" for each in ids)
