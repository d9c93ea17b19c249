"""RunReport: what was measured beside what was predicted, and everything needed to repeat the run. `ftadvise.report/1`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftadvise.estimator.plan_file import write_text_atomically
from ftadvise.profiles.errors import InputError, PredictionMissedError

REPORT_SCHEMA = "ftadvise.report/1"
REPORT_NAME = "report.json"


@dataclass(frozen=True, slots=True)
class Answer:
    """One prompt answered before and after training."""

    prompt: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class RunReport:
    """One finished run. Documents are JSON-ready mappings; bytes, seconds and tokens throughout.

    `predicted` is the `ftadvise.estimate/1` document at the recipe's full seq_len, `predicted_at_measured` the same at what really ran:
    its memory at the shape of the largest metered batch (`batch`), its throughput at the mean length of the steps that were timed. That
    one is compared with `measured` and `tokens_per_second`.
    """

    created: str
    versions: dict[str, str]
    hardware: dict[str, Any]
    model: dict[str, Any]
    plan: dict[str, Any]
    recipe: dict[str, Any]
    data: dict[str, Any]
    predicted: dict[str, Any]
    predicted_at_measured: dict[str, Any]
    batch: dict[str, Any]
    measured: dict[str, Any]
    steps: int
    losses: tuple[tuple[int, float | None], ...]
    """(optimizer step, loss) of every step, of resumed runs from the beginning; None for a loss that was not a number."""
    tokens_per_second: float | None
    """Padded tokens per second of the steps after the metered ones; None when there were none."""
    seconds_per_step: float | None
    total_seconds: float
    rehearsal: bool = False
    resumed_from_step: int = 0
    answer: Answer | None = None
    saved: str | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.recipe["seed"])

    def to_json(self) -> dict[str, Any]:
        """The document of report.json."""
        document = dataclasses.asdict(self)
        document["losses"] = [list(pair) for pair in self.losses]
        document["notes"] = list(self.notes)
        return {"schema": REPORT_SCHEMA, **document}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the comparison; None where a figure does not exist."""

    name: str
    predicted_bytes: int | None
    measured_bytes: int | None
    is_total: bool = False

    @property
    def error_bytes(self) -> int | None:
        """Predicted minus measured."""
        if self.predicted_bytes is None or self.measured_bytes is None:
            return None
        return self.predicted_bytes - self.measured_bytes

    @property
    def error_percent(self) -> float | None:
        """The error as a share of what was measured; None when that was nothing."""
        if self.error_bytes is None or not self.measured_bytes:
            return None
        return 100 * self.error_bytes / self.measured_bytes


_PARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("weights", ("weights",)),
    ("quantisation constants", ("quantization_constants",)),
    ("adapters + optimizer", ("adapters", "optimizer_state")),
    ("gradients", ("gradients",)),
    ("activations", ("activations",)),
    ("loss", ("loss",)),
    ("workspace", ("workspace",)),
)
_TOTALS = (
    ("total allocated", "peak_allocated_bytes"),
    ("reserved", "peak_reserved_bytes"),
    ("device used", "device_used_bytes"),
)


def comparison_rows(report: RunReport) -> list[Row]:
    """Predicted beside measured at the moment of the peak: the components, then the three totals.

    The components sum to "total allocated". Workspace (temporaries of the optimizer step) is left out where there is none. On the
    CPU there is no caching allocator, so "reserved" has no measured figure there.
    """
    predicted, measured = report.predicted_at_measured["memory"], report.measured
    rows = []
    for name, parts in _PARTS:
        expected, found = (sum(int(side["components"][part]) for part in parts) for side in (predicted, measured))
        if name != "workspace" or expected or found:
            rows.append(Row(name, expected, found))
    return rows + [Row(name, predicted[key], measured[key], is_total=True) for name, key in _TOTALS]


def fail_on_miss(report: RunReport, percent: float) -> None:
    """Raise PredictionMissedError when total allocated was predicted wrong by more than `percent`."""
    row = next(row for row in comparison_rows(report) if row.name == "total allocated")
    error = row.error_percent
    if error is not None and abs(error) > percent:
        raise PredictionMissedError(f"peak allocated memory was predicted {error:+.1f} % off, more than {percent:g} %")


def write_report(run_dir: Path, report: RunReport) -> Path:
    """Write report.json into the run folder, completely or not at all; returns its path."""
    path = run_dir / REPORT_NAME
    write_text_atomically(path, json.dumps(report.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def read_report(run_dir: Path) -> RunReport:
    """The report of a finished run.

    Raises:
        InputError: there is none, or it is broken or of another version.
    """
    path = run_dir / REPORT_NAME
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        unfinished = (run_dir / "run.json").exists()
        what = "the run there has not finished" if unfinished else "there is no run"
        raise InputError(f"{run_dir}: {what} (no {REPORT_NAME})", hint="ftadvise run PLAN --resume" if unfinished else None) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())[:100]})") from None
    if not isinstance(document, dict) or document.pop("schema", None) != REPORT_SCHEMA:
        raise InputError(f"{path}: not a report of schema {REPORT_SCHEMA!r}")
    names = {f.name for f in dataclasses.fields(RunReport)}
    if set(document) != names:
        odd = sorted(set(document) ^ names)
        raise InputError(f"{path}: keys are missing or unknown: {', '.join(odd[:5])}")
    document["losses"] = tuple((int(step), loss) for step, loss in document["losses"])
    document["notes"] = tuple(document["notes"])
    document["answer"] = Answer(**document["answer"]) if document["answer"] else None
    return RunReport(**document)
