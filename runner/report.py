"""RunReport: what was measured beside what was predicted, and everything needed to repeat the run. `ftadvise.report/1`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftadvise.estimator.plan_file import write_text_atomically
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError, PredictionMissedError
from ftadvise.profiles.printable import one_line

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
    evaluations: tuple[tuple[int, float | None], ...] = ()
    """(optimizer step, loss on the rows set aside) of every evaluation."""
    timeline: tuple[tuple[int, float, int | None], ...] = ()
    """(optimizer step, seconds since training began, bytes in use on the device), thinned; see `runner.timeline`."""
    attempts: tuple[dict[str, Any], ...] = ()
    """The attempts of the run in order (`runner.attempt.Attempt`); more than one where memory ran out or the run was resumed."""
    ranks: tuple[dict[str, Any], ...] = ()
    """{"rank", "host", "measured"} of each process; empty for one."""
    training_peak: dict[str, Any] | None = None
    """"allocated_bytes", "reserved_bytes" and "device_used_bytes" over the whole run, not only the metered steps."""

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.recipe["seed"])

    def to_json(self) -> dict[str, Any]:
        """The document of report.json."""
        document = dataclasses.asdict(self)
        for name in ("losses", "evaluations", "timeline"):
            document[name] = [list(point) for point in document[name]]
        for name in ("notes", "attempts", "ranks"):
            document[name] = list(document[name])
        return {"schema": REPORT_SCHEMA, **document}


def recipe_of(report: RunReport) -> Recipe:
    """The recipe that ran."""
    return Recipe.from_dict(report.recipe, where="report")


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
    return _compared(report.predicted_at_measured["memory"], report.measured)


def rank_rows(report: RunReport) -> list[tuple[int, str, list[Row]]]:
    """(rank, host, rows as of `comparison_rows`) of every process; the prediction is the same for all of them."""
    predicted = report.predicted_at_measured["memory"]
    return [(each["rank"], each["host"], _compared(predicted, each["measured"])) for each in report.ranks]


def _compared(predicted: dict[str, Any], measured: dict[str, Any]) -> list[Row]:
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
    """The report of a finished run; fields that an older version did not write have their defaults.

    Raises:
        InputError: there is none, or it is broken or of another version.
    """
    from ftadvise.runner.report_schema import parse_report
    from ftadvise.runner.unfinished import why_no_report

    path = run_dir / REPORT_NAME
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except FileNotFoundError:
        raise why_no_report(run_dir) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())[:100]})") from None
    if not isinstance(document, dict) or document.pop("schema", None) != REPORT_SCHEMA:
        raise InputError(f"{path}: not a report of schema {REPORT_SCHEMA!r}")
    names = {f.name: f for f in dataclasses.fields(RunReport)}
    needed = {name for name, f in names.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING}
    odd = sorted((set(document) - set(names)) | (needed - set(document)))
    if odd:
        raise InputError(f"{path}: keys are missing or unknown: {one_line(', '.join(odd[:5]))}")
    return parse_report(document, path)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
