"""Errors, figures, interval and page of the accuracy benchmark, on a handful of made-up runs."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accuracy import report
from benchmarks.accuracy.__main__ import predict_rows
from benchmarks.accuracy.case import GIB, Case, Excluded, Measurement, Verdict
from benchmarks.accuracy.interval import leave_one_source_out, quantiles
from benchmarks.accuracy.peers import peer_figures, read_peers
from benchmarks.accuracy.predict import Prediction
from benchmarks.accuracy.score import Scored, figures, figures_of, score
from benchmarks.accuracy.table import COLUMNS, write_rows
from benchmarks.accuracy.verdicts import Judged
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError


def _case(identifier: str, measured_gib: float, *, source: str = "a", unknown: tuple[str, ...] = (), metric: str = "device_used") -> Case:
    reading = Measurement(metric, measured_gib * GIB)  # type: ignore[arg-type]
    return Case(identifier, source, "m", "g", Recipe(), "trl", (reading,), unknown)


def _prediction(gib: float) -> Prediction:
    size = int(gib * GIB)
    peaks = {"allocated": size, "reserved": size, "device_used": size}
    return Prediction(peaks, int(0.95 * size), int(1.05 * size), "backward", {"weights": size // 2, "loss": size // 2})  # type: ignore[arg-type]


def _scored(measured: float, predicted: float, **settings: object) -> Scored:
    return score(_case(f"{measured}-{predicted}", measured, **settings), _prediction(predicted))[0]  # type: ignore[arg-type]


def test_figures_of_four_runs_by_hand() -> None:
    found = figures([_scored(10, 10), _scored(10, 11), _scored(10, 9), _scored(10, 8)])
    assert found.count == 4
    assert found.median == pytest.approx(0.10)
    assert found.mean == pytest.approx(0.10)
    assert found.bias == pytest.approx(-0.05)
    assert (found.worst_over, found.worst_under) == (pytest.approx(0.1), pytest.approx(-0.2))
    assert found.under_share == 0.5
    assert found.coverage == 0.25


@given(st.lists(st.floats(-0.9, 3.0), min_size=1))
def test_bias_never_exceeds_the_mean_and_the_worst_bound_every_error(errors: list[float]) -> None:
    found = figures_of(errors, [])
    assert abs(found.bias) <= found.mean + 1e-12
    assert all(found.worst_under <= error <= found.worst_over for error in errors)
    assert found.median <= max(map(abs, errors))
    assert found.coverage is None


def test_a_run_with_two_readings_counts_once_in_the_totals() -> None:
    case = Case("x", "a", "m", "g", Recipe(), "trl", (Measurement("allocated", 10 * GIB), Measurement("device_used", 12 * GIB)))
    first, second = score(case, _prediction(11))
    assert (first.primary, second.primary) == (True, False)
    assert first.error == pytest.approx(0.1)
    assert second.error == pytest.approx(11 / 12 - 1)
    assert first.covered is None
    assert second.covered is False


def test_a_refused_recipe_becomes_an_excluded_row() -> None:
    def refuse(case: Case) -> Prediction:
        raise InputError("no such layer")

    scored, excluded = predict_rows([_case("x", 1), Excluded("y", "a", "because")], refuse)
    assert scored == []
    assert [(row.id, row.reason) for row in excluded] == [("x", "the estimator refuses it: no such layer"), ("y", "because")]


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=60))
def test_quantiles_lie_inside_the_residuals_and_in_order(residuals: list[float]) -> None:
    low, high = quantiles(residuals)
    assert min(residuals) <= low <= high <= max(residuals)


def test_the_interval_of_other_sources_is_what_a_source_is_judged_by() -> None:
    exact = [_scored(10, 10, source="exact") for _ in range(5)]
    wild = [_scored(10, 5, source="wild") for _ in range(5)]
    assert leave_one_source_out([*exact, *wild]) == [("exact", 5, 0.0), ("wild", 5, 0.0)]
    assert _scored(10, 5).log_ratio == pytest.approx(math.log(2))


def test_a_tight_verdict_is_right_only_near_the_card() -> None:
    case = Verdict("v", "a", "m", "g", (Recipe(),), "trl", fits=True)
    assert Judged(case, ("tight",), (int(15.5 * GIB),), 16 * GIB).right
    assert not Judged(case, ("tight",), (12 * GIB,), 16 * GIB).right
    assert not Judged(case, ("fits", "does_not_fit"), (12 * GIB, 17 * GIB), 16 * GIB).right


def test_peers_are_compared_on_the_rows_they_answer(tmp_path: Path) -> None:
    path = tmp_path / "peers.csv"
    path.write_text("id,tool,predicted_gib,note\n10-11,other,15,\n10-9,other,,cannot\nelsewhere,other,1,\n", encoding="utf-8")
    found = peer_figures(read_peers(path), [_scored(10, 11), _scored(10, 9)])
    assert [(tool, each.count, pytest.approx(each.mean)) for tool, each in found] == [
        ("other", 1, 0.5),
        ("ftadvise, the rows other answers", 1, 0.1),
    ]
    assert read_peers(tmp_path / "none.csv") == []


def test_the_page_scores_partly_known_rows_apart_and_names_every_reason() -> None:
    results = report.Results(
        single=[_scored(10, 10.2), _scored(10, 20, unknown=("the longest batch",))],
        multi=[],
        traced=[],
        judged=[Judged(Verdict("hf4bit-v", "a", "m", "g", (Recipe(),), "trl", fits=True), ("fits",), (8 * GIB,), 16 * GIB)],
        excluded=[Excluded("y", "a", "GPTQ base")],
        excluded_multi=[],
        peers=[],
        versions="",
    )
    text = report.page(results)
    known, partly = text.split("## One GPU, settings fully known")[1].split("## One GPU, settings partly known")
    assert "+2.0 %" in known
    assert "+100.0 %" not in known
    assert "+100.0 %" in partly
    assert "| a | the longest batch | 1 |" in partly
    assert "| a | one | GPTQ base | 1 |" in text
    assert "| fully known: mean <= 4 % | 2.0 % | pass |" in text


def test_the_table_has_a_line_for_every_reading_and_every_excluded_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_rows(path, [("analytic", _scored(10, 11))], [Excluded("y", "a", "because")])
    with path.open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert tuple(first) == tuple(COLUMNS)
    assert (first["measured_gib"], first["predicted_gib"], first["error_percent"], first["covered"]) == (
        "10.000",
        "11.000",
        "10.00",
        "False",
    )
    assert (second["id"], second["excluded_because"]) == ("y", "because")


def test_the_committed_table_names_every_published_row() -> None:
    root = Path(__file__).parents[2] / "benchmarks"
    ids = {"results/accuracy.csv": set(), "data": set()}
    for name in ("results/accuracy.csv", "data/memory_measurements.csv", "data/memory_measurements_multi_gpu.csv"):
        with (root / name).open(newline="", encoding="utf-8") as file:
            ids["data" if name.startswith("data") else name] |= {row["id"] for row in csv.DictReader(file)}
    assert ids["results/accuracy.csv"] == ids["data"]
