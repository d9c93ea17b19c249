"""Every row with its prediction as a CSV file, one line per reading: benchmarks/results/accuracy.csv."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy.case import GIB, Excluded
from benchmarks.accuracy.score import Scored

COLUMNS = (
    "id",
    "source",
    "known",
    "metric",
    "basis",
    "measured_gib",
    "predicted_gib",
    "error_percent",
    "low_gib",
    "high_gib",
    "covered",
    "peak_phase",
    "weights_gib",
    "activations_gib",
    "loss_gib",
    "other_gib",
    "stack",
    "excluded_because",
)


def write_rows(path: Path, scored: Sequence[tuple[str, Scored]], excluded: Sequence[Excluded]) -> None:
    """Write the (basis, reading) pairs in order, then the rows that were left out with the reason."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for basis, each in scored:
            writer.writerow(_cells(basis, each))
        for row in excluded:
            writer.writerow({"id": row.id, "source": row.source, "excluded_because": row.reason})


def _cells(basis: str, each: Scored) -> dict[str, object]:
    parts = {name: size / GIB for name, size in each.prediction.components.items() if name != "context"}
    weights, activations, loss = (parts.pop(name, 0.0) for name in ("weights", "activations", "loss"))
    return {
        "id": each.case.id,
        "source": each.case.source,
        "known": "fully" if each.case.fully_known else "partly",
        "metric": each.measurement.metric if each.measurement.named else "unnamed",
        "basis": basis,
        "measured_gib": f"{each.measurement.peak_bytes / GIB:.3f}",
        "predicted_gib": f"{each.predicted_bytes / GIB:.3f}",
        "error_percent": f"{100 * each.error:.2f}",
        "low_gib": f"{each.prediction.low_bytes / GIB:.2f}",
        "high_gib": f"{each.prediction.high_bytes / GIB:.2f}",
        "covered": "" if each.covered is None else each.covered,
        "peak_phase": each.prediction.peak_phase,
        "weights_gib": f"{weights:.3f}",
        "activations_gib": f"{activations:.3f}",
        "loss_gib": f"{loss:.3f}",
        "other_gib": f"{sum(parts.values()):.3f}",
        "stack": each.case.stack,
    }
