"""How far each tool is off: over all rows, by method, and by what is known about the row."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass

Row = dict[str, str]

_PLAIN = "plain rows"
# Name of the group, which rows belong to it, the predicted column.
_GROUPS: tuple[tuple[str, Callable[[Row], bool], str], ...] = (
    (_PLAIN, lambda row: True, "predicted_gib"),
    ("all rows", lambda row: True, "predicted_gib"),
    ("full", lambda row: row["method"] == "full", "predicted_gib"),
    ("lora", lambda row: row["method"] == "lora", "predicted_gib"),
    ("qlora", lambda row: row["method"] == "qlora", "predicted_gib"),
    ("nvidia-smi", lambda row: bool(row["peak_mem_nvidia_mib"]), "predicted_device_gib"),
    ("headline total", lambda row: True, "headline_gib"),
)


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors in per cent over the rows that a tool predicts; `bias` is their mean with its sign."""

    rows: int
    predicted: int
    mean: float
    median: float
    bias: float
    too_low: float

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, float]]) -> Errors | None:
        """From pairs of predicted ("" for none) and measured GiB; None when nothing is predicted."""
        both = list(pairs)
        errors = [100 * (float(predicted) / measured - 1) for predicted, measured in both if predicted]
        if not errors:
            return None
        sizes = [abs(error) for error in errors]
        low = 100 * sum(error < -5 for error in errors) / len(errors)
        return cls(len(both), len(errors), statistics.fmean(sizes), statistics.median(sizes), statistics.fmean(errors), low)


def table(measurements: list[Row], answers: list[Row], plain: Set[str]) -> str:
    """A Markdown table: a line for each tool and group. `plain`: ids of rows whose settings are all published and known to estimators."""
    lines = [
        "| tool | rows | predicted | mean abs error | median abs error | bias | more than 5 % too low |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for tool in dict.fromkeys(answer["tool"] for answer in answers):
        by_id = {answer["id"]: answer for answer in answers if answer["tool"] == tool}
        for name, belongs, column in _GROUPS:
            rows = [row for row in measurements if belongs(row) and (name != _PLAIN or row["id"] in plain)]
            found = Errors.of((by_id[row["id"]][column], measured_gib(row, column)) for row in rows)
            lines.append(f"| {tool} | {name} | {_cells(found)} |")
    return "\n".join(lines) + "\n"


def measured_gib(row: Row, column: str) -> float:
    """What a predicted column is held against: nvidia-smi for the device, else the row's main figure."""
    return float(row["peak_mem_nvidia_mib"]) / 1024 if column == "predicted_device_gib" else float(row["peak_mem_gib_norm"])


def reasons(answers: list[Row]) -> str:
    """Why rows have no prediction, by tool, commonest first."""
    lines = []
    for tool in dict.fromkeys(answer["tool"] for answer in answers):
        notes = [_general(answer["note"]) for answer in answers if answer["tool"] == tool and not answer["predicted_gib"]]
        lines += [f"{tool}: {count} rows: {note}" for note, count in _counted(notes)]
    return "\n".join(lines) + "\n"


def _general(note: str) -> str:
    """The note without the name of the method, so that the thirty methods of one source count as one reason."""
    return "method" + note[note.index(":") :] if note.startswith("method ") else note


def _counted(notes: list[str]) -> list[tuple[str, int]]:
    return sorted(((note, notes.count(note)) for note in dict.fromkeys(notes)), key=lambda pair: -pair[1])


def _cells(found: Errors | None) -> str:
    if found is None:
        return "0 | - | - | - | -"
    return f"{found.predicted} of {found.rows} | {found.mean:.1f} % | {found.median:.1f} % | {found.bias:+.1f} % | {found.too_low:.0f} %"
