"""What benchmarks/results says in a few lines for the documentation. Reads the files that the benchmarks wrote; prices and traces nothing.

`make docs` puts `summary`, `table` and `peers` into README.md and docs/memory_model.md.

Run: python -m benchmarks.accuracy.summary
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy.peers import read_peers
from benchmarks.accuracy.published import read
from benchmarks.accuracy.score import Figures, figures_of

RESULTS = Path(__file__).parents[1] / "results"
_METRICS = {"allocated": "torch allocated", "reserved": "torch reserved", "device_used": "nvidia-smi", "unnamed": "not named"}


@dataclass(frozen=True, slots=True)
class Reading:
    """One line of accuracy.csv that has a prediction. `primary`: the figure of the table's peak column, the first of its run."""

    id: str
    source: str
    fully_known: bool
    metric: str
    basis: str
    measured_gib: float
    predicted_gib: float
    covered: bool | None
    several_gpus: bool
    primary: bool

    @property
    def error(self) -> float:
        """Predicted over measured, minus 1."""
        return self.predicted_gib / self.measured_gib - 1


def readings(path: Path = RESULTS / "accuracy.csv") -> list[Reading]:
    """Every reading with its prediction, in the file's order."""
    several = {row["id"] for row in read("memory_measurements_multi_gpu.csv")}
    seen: set[tuple[str, str]] = set()
    found = []
    for row in _rows(path):
        if row["excluded_because"]:
            continue
        key = (row["basis"], row["id"])
        covered = row["covered"] == "True" if row["covered"] else None
        found.append(
            Reading(
                id=row["id"],
                source=row["source"],
                fully_known=row["known"] == "fully",
                metric=row["metric"],
                basis=row["basis"],
                measured_gib=float(row["measured_gib"]),
                predicted_gib=float(row["predicted_gib"]),
                covered=covered,
                several_gpus=row["id"] in several,
                primary=key not in seen,
            )
        )
        seen.add(key)
    return found


def summary() -> str:
    """Bullets for the README."""
    every = [each for each in readings() if each.basis == "analytic"]
    one = [each for each in every if not each.several_gpus and each.fully_known]
    several = [each for each in every if each.several_gpus and each.fully_known and each.metric == "allocated"]
    open_rows = [each for each in every if not each.several_gpus and not each.fully_known and each.primary]
    allocated = _of(each for each in one if each.metric == "allocated")
    shown = _of(each for each in one if each.metric == "device_used")
    lines = [
        f"- One GPU, {allocated.count} published runs whose settings are fully known ({_sources(one)}): peak allocated memory is",
        f"  {_percent(allocated.mean)} off on average ({_range(allocated)}), what `nvidia-smi` shows {_percent(shown.mean)}",
        f"  ({_range(shown)}); {_share(shown)} of the latter lie inside the 90 % interval, which was made from them.",
    ]
    if several:
        error = _percent(_of(several).mean)
        lines.append(f"- Several GPUs (FSDP, {len(several)} such runs): allocated memory of each GPU is {error} off on average.")
    if open_rows:
        unknown = _of(open_rows)
        too_low = f"{100 * unknown.under_share:.0f} % of them more than 5 % too low"
        lines += [
            f"- {unknown.count} more rows, scored apart, leave a setting open, mostly how long the longest batch was:",
            f"  mean {_percent(unknown.mean)}, {too_low}, {_share(unknown)} inside the interval.",
        ]
    agreement = _agreement()
    if agreement:
        lines.append(agreement)
    return "\n".join(lines) + "\n"


def table() -> str:
    """Figures by what was known, the metric and the basis, as a Markdown table."""
    lines = [
        "| settings | metric | by | readings | median | mean | worst over | worst under | > 5 % too low | inside the interval |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    groups: dict[tuple[str, str, str], list[Reading]] = {}
    for each in readings():
        where = f"{'several GPUs' if each.several_gpus else 'one GPU'}, {'fully' if each.fully_known else 'partly'} known"
        groups.setdefault((where, _METRICS[each.metric], each.basis), []).append(each)
    for (where, metric, basis), group in sorted(groups.items()):
        f = _of(group)
        errors = f"{_percent(f.median)} | {_percent(f.mean)} | {100 * f.worst_over:+.1f} % | {100 * f.worst_under:+.1f} %"
        covered = "" if f.coverage is None else _share(f)
        lines.append(f"| {where} | {metric} | {basis} | {f.count} | {errors} | {100 * f.under_share:.0f} % | {covered} |")
    return "\n".join(lines) + "\n"


def peers() -> str:
    """Each public estimator beside ftadvise on the fully known rows that it answers, as a Markdown table."""
    ours = {each.id: each for each in readings() if each.basis == "analytic" and each.primary and each.fully_known}
    lines = [
        "| estimator | rows | median | mean | > 5 % too low | ftadvise, same rows: median | mean | > 5 % too low |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    answers = [peer for peer in read_peers() if peer.id in ours]
    for tool in dict.fromkeys(peer.tool for peer in answers):
        rows = [(peer.predicted_bytes / 2**30, ours[peer.id]) for peer in answers if peer.tool == tool]
        theirs = figures_of([predicted / row.measured_gib - 1 for predicted, row in rows], [])
        cells = " | ".join(_short(f) for f in (theirs, _of([row for _, row in rows])))
        lines.append(f"| {tool} | {len(rows)} | {cells} |")
    return "\n".join(lines) + "\n"


def _agreement(path: Path = RESULTS / "agreement.csv") -> str:
    """The analytic model against the trace, as benchmarks/agreement.py left it."""
    if not path.exists():
        return ""
    rows = _rows(path)
    errors = [float(row["peak_error_percent"]) / 100 for row in rows]
    f, architectures = figures_of(errors, []), len({row["architecture"] for row in rows})
    within, worst = sum(abs(error) <= 0.02 for error in errors) / len(errors), max(abs(error) for error in errors)
    return (
        f"- The analytic model against the trace, {f.count} random recipes over {architectures} architectures:\n"
        f"  median {100 * f.median:.2f} %, {100 * within:.0f} % of them within 2 %, the worst {100 * worst:.1f} % off."
    )


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _of(rows: Iterable[Reading]) -> Figures:
    group = list(rows)
    return figures_of([each.error for each in group], [each.covered for each in group if each.covered is not None])


def _sources(rows: Sequence[Reading]) -> str:
    return ", ".join(sorted({each.source for each in rows}))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _range(f: Figures) -> str:
    return f"{100 * f.worst_under:+.1f} to {100 * f.worst_over:+.1f} %"


def _share(f: Figures) -> str:
    return "none" if f.coverage is None else f"{100 * f.coverage:.0f} %"


def _short(f: Figures) -> str:
    return f"{_percent(f.median)} | {_percent(f.mean)} | {100 * f.under_share:.0f} %"


if __name__ == "__main__":
    print(summary(), table(), peers(), sep="\n")
