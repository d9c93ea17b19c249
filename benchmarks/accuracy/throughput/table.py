"""Every published speed with its prediction as a CSV file: benchmarks/results/throughput_accuracy.csv."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy.case import Excluded
from benchmarks.accuracy.throughput.rows import part_of
from benchmarks.accuracy.throughput.score import Scored

COLUMNS = (
    "id",
    "source",
    "known",
    "part",
    "published",
    "measured_seconds_per_step",
    "predicted_seconds_per_step",
    "measured_tokens_per_s_per_gpu",
    "predicted_tokens_per_s_per_gpu",
    "error_percent",
    "low_tokens_per_s",
    "high_tokens_per_s",
    "covered",
    "bound_by",
    "shares",
    "model",
    "gpus",
    "method",
    "quantization",
    "dtype",
    "checkpointing",
    "micro_batch",
    "accumulation",
    "mean_length",
    "stack",
    "excluded_because",
)


def write_rows(path: Path, scored: Sequence[Scored], excluded: Sequence[Excluded]) -> None:
    """Write the runs in order, then the rows that were left out with the reason."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for each in scored:
            writer.writerow(_cells(each))
        for row in excluded:
            writer.writerow({"id": row.id, "source": row.source, "part": part_of(row.source), "excluded_because": row.reason})


def _cells(each: Scored) -> dict[str, object]:
    run, case, recipe = each.run, each.run.case, each.run.case.recipe
    return {
        "id": case.id,
        "source": case.source,
        "known": run.known,
        "part": part_of(case.source),
        "published": run.printed,
        "measured_seconds_per_step": f"{run.seconds:.5g}",
        "predicted_seconds_per_step": f"{each.prediction.seconds:.5g}",
        "measured_tokens_per_s_per_gpu": f"{run.tokens_per_second:.1f}",
        "predicted_tokens_per_s_per_gpu": f"{each.predicted_tokens_per_second:.1f}",
        "error_percent": f"{100 * each.error:.2f}",
        "low_tokens_per_s": f"{run.tokens_per_step / each.prediction.high_seconds:.1f}",
        "high_tokens_per_s": f"{run.tokens_per_step / each.prediction.low_seconds:.1f}",
        "covered": each.covered,
        "bound_by": each.prediction.bound_by,
        "shares": " ".join(f"{name}={100 * share:.0f}%" for name, share in each.prediction.shares.items()),
        "model": case.model,
        "gpus": f"{case.n_gpus}x {case.gpu}",
        "method": recipe.method,
        "quantization": recipe.quantization,
        "dtype": recipe.compute_dtype,
        "checkpointing": recipe.gradient_checkpointing,
        "micro_batch": recipe.micro_batch,
        "accumulation": recipe.gradient_accumulation,
        "mean_length": round(run.tokens_per_step / recipe.sequences_per_step),
        "stack": case.stack,
    }
