"""The figures that the documents take from the benchmarks' results, and the worked example of the memory model."""

from __future__ import annotations

import csv
import statistics
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import alive_at_peak  # noqa: E402
from benchmarks.accuracy import summary  # noqa: E402
from benchmarks.accuracy.table import COLUMNS  # noqa: E402
from ftadvise.estimator.timeline import Timeline  # noqa: E402


def _write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def _row(name: str, metric: str, basis: str = "analytic", **more: str) -> dict[str, str]:
    return {"id": name, "source": "s", "known": "fully", "metric": metric, "basis": basis, "measured_gib": "8", "predicted_gib": "9"} | more


def test_the_first_reading_of_a_run_is_its_primary_one_for_each_basis(tmp_path: Path) -> None:
    rows = [_row("a", "allocated"), _row("a", "device_used", covered="False"), _row("a", "allocated", "traced"), _row("b", "reserved")]
    found = summary.readings(_write(tmp_path / "rows.csv", rows))
    assert [each.primary for each in found] == [True, False, True, True]
    assert [each.covered for each in found] == [None, False, None, None]
    assert found[0].error == pytest.approx(0.125)


def test_excluded_rows_have_no_reading(tmp_path: Path) -> None:
    rows = [_row("a", "allocated"), {"id": "b", "source": "s", "excluded_because": "no such method"}]
    assert [each.id for each in summary.readings(_write(tmp_path / "rows.csv", rows))] == ["a"]


def test_rows_of_several_gpus_are_told_apart_by_the_published_table(tmp_path: Path) -> None:
    with (ROOT / "benchmarks" / "data" / "memory_measurements_multi_gpu.csv").open(newline="", encoding="utf-8") as file:
        name = next(csv.DictReader(file))["id"]
    found = summary.readings(_write(tmp_path / "rows.csv", [_row(name, "allocated"), _row("one", "allocated")]))
    assert [each.several_gpus for each in found] == [True, False]


def test_an_estimator_is_compared_on_the_rows_it_answers_and_no_others() -> None:
    known = {each.id: each for each in summary.readings() if each.basis == "analytic" and each.primary and each.fully_known}
    with (ROOT / "benchmarks" / "results" / "peers.csv").open(newline="", encoding="utf-8") as file:
        answers = [row for row in csv.DictReader(file) if row["tool"] == "fitcheck-llm" and row["predicted_gib"] and row["id"] in known]
    theirs = statistics.fmean(abs(float(row["predicted_gib"]) / known[row["id"]].measured_gib - 1) for row in answers)
    ours = statistics.fmean(abs(known[row["id"]].error) for row in answers)
    cells = [cell.strip() for cell in next(line for line in summary.peers().splitlines() if "fitcheck" in line).split("|")]
    assert (cells[2], cells[4], cells[7]) == (str(len(answers)), f"{100 * theirs:.1f} %", f"{100 * ours:.1f} %")


def test_every_reading_is_in_the_table_once() -> None:
    lines = summary.table().splitlines()[2:]
    assert sum(int(line.split("|")[4]) for line in lines) == len(summary.readings())


def test_what_is_alive_is_grouped_and_sums_to_what_is_allocated() -> None:
    line = Timeline()
    for storage, size, label, module in (
        (0, 100, "weights", ""), (1, 50, "weights", ""), (2, 8, "activations", "layers.0.mlp"), (3, 8, "activations", "layers.1.mlp"),
        (4, 9, "activations", "norm"), (4, -9, "activations", "norm"),
    ):  # fmt: skip
        line.append(storage, size, label=label, operation="add", module=module, phase="forward")
    found = alive_at_peak.alive(line, 5)
    assert [(each.label, each.module, each.size_bytes, each.count) for each in found] == [
        ("weights", "", 150, 0),
        ("activations", "layers.*.mlp", 8, 2),
    ]
    assert sum(each.together_bytes for each in found) == sum(line.sizes)


def test_the_example_is_explained_to_the_last_tensor() -> None:
    """The groups of the table sum to the estimate beside it."""
    lines = alive_at_peak.table().splitlines()
    groups = [float(line.split("|")[-2].removesuffix("GiB ")) for line in lines if line.endswith("GiB |")]
    together = float(next(line for line in lines if line.startswith("Together")).split()[1])
    assert sum(groups) == pytest.approx(together, abs=0.005 * len(groups))
    assert len(groups) > 8
