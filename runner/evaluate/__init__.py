"""What a run's model is worth on data: the base model beside the trained one, with intervals for the difference."""

from __future__ import annotations

from ftadvise.runner.evaluate.evaluation import EVAL_SCHEMA, METRICS, EvalSettings, Evaluation, Sample, write_evaluation
from ftadvise.runner.evaluate.paired import Measure
from ftadvise.runner.evaluate.rows import rows_to_evaluate
from ftadvise.runner.evaluate.run import evaluate_run

__all__ = [
    "EVAL_SCHEMA",
    "METRICS",
    "EvalSettings",
    "Evaluation",
    "Measure",
    "Sample",
    "evaluate_run",
    "rows_to_evaluate",
    "write_evaluation",
]
