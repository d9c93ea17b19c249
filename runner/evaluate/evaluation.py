"""The result of an evaluation, and its file. `ftadvise.eval/1`."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftadvise.estimator.plan_file import write_text_atomically
from ftadvise.profiles.errors import InputError, did_you_mean
from ftadvise.runner.evaluate.paired import Measure

EVAL_SCHEMA = "ftadvise.eval/1"
METRICS = ("loss", "bleu", "rouge", "accuracy")


@dataclass(frozen=True, slots=True)
class EvalSettings:
    """What is measured. `max_rows` are drawn at random with the run's seed; 0 means all."""

    metrics: tuple[str, ...] = METRICS
    max_rows: int = 200
    batch_size: int = 4
    max_new_tokens: int = 256


def named_metrics(names: str | None) -> tuple[str, ...]:
    """Metrics named in one text, separated by commas; None for all.

    Raises:
        InputError: an unknown metric, or none.
    """
    if names is None:
        return METRICS
    metrics = tuple(dict.fromkeys(name.strip().lower() for name in names.split(",") if name.strip()))
    for name in metrics:
        if name not in METRICS:
            raise InputError(f"no metric {name!r}", hint=did_you_mean(name, METRICS) or f"metrics: {', '.join(METRICS)}")
    if not metrics:
        raise InputError("no metric is named", hint=f"metrics: {', '.join(METRICS)}")
    return metrics


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt with the answer in the data and those of both models."""

    prompt: str
    reference: str
    base: str
    tuned: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Base beside trained model. `skipped` holds why a metric was not measured."""

    created: str
    run: str
    model: str
    recipe: str
    device: str
    data: dict[str, Any]
    """"path", "sha256", "rows" (there), "evaluated", "left_out" (no token to learn within seq_len), "trained_on" (the run learned them)."""
    settings: dict[str, Any]
    measures: tuple[Measure, ...]
    skipped: dict[str, str]
    samples: tuple[Sample, ...]
    versions: dict[str, str]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The document of `ftadvise eval --json` and of its file."""
        document: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return {"schema": EVAL_SCHEMA, **document}


def write_evaluation(run_dir: Path, evaluation: Evaluation) -> Path:
    """Write eval-<name of the data>.json into the run folder, completely or not at all; replaces that of the same data.

    Raises:
        InputError: it cannot be written.
    """
    stem = Path(str(evaluation.data["path"]).replace("\\", "/").rstrip("/")).stem
    name = re.sub(r"[^\w.-]+", "-", stem)[:60].strip(".-") or "data"
    path = run_dir / f"eval-{name}.json"
    write_text_atomically(path, json.dumps(evaluation.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return path
