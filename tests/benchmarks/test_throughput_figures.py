"""Errors, pairs, page and table of the speed benchmark, on made-up runs and a few real ones."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accuracy import __main__ as command_line
from benchmarks.accuracy.case import Case, Excluded
from benchmarks.accuracy.throughput import pairs, report, summary
from benchmarks.accuracy.throughput.command import results
from benchmarks.accuracy.throughput.predict import Prediction, predicted
from benchmarks.accuracy.throughput.rows import runs
from benchmarks.accuracy.throughput.run import Run
from benchmarks.accuracy.throughput.score import Scored, figures, score
from benchmarks.accuracy.throughput.table import COLUMNS, write_rows
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.yaml_store import load_yaml

ROOT = Path(__file__).parents[2]


def _scored(
    measured: float, seconds: float, *, unknown: tuple[str, ...] = (), source: str = "fms-acceleration", **recipe: object
) -> Scored:
    name = f"{measured}-{seconds}-{sorted(recipe)}"
    case = Case(name, source, "m", "g", Recipe(gradient_accumulation=1).replace(**recipe), "trl", (), unknown)
    return Scored(Run(case, measured, "1 s"), Prediction(seconds, 0.9 * seconds, 1.1 * seconds, "compute", {"matmul": 1.0}))


def test_figures_of_four_runs_by_hand() -> None:
    """Errors of speed: a step predicted in half the time is +100 %."""
    found = figures([_scored(10, 10), _scored(10, 5), _scored(10, 12.5), _scored(10, 10.5)])
    assert (found.count, found.worst.error) == (4, pytest.approx(1.0))
    assert found.bias == pytest.approx((0 + 1 - 0.2 + 10 / 10.5 - 1) / 4)
    assert found.median == pytest.approx((1 - 10 / 10.5 + 0.2) / 2)
    assert (found.within_20, found.coverage) == (0.75, 0.5)


@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(0.1, 100)), min_size=1, max_size=30))
def test_shares_and_quantiles_agree(steps: list[tuple[float, float]]) -> None:
    scored = [_scored(measured, seconds) for measured, seconds in steps]
    found = figures(scored)
    assert abs(found.bias) <= found.mean + 1e-12
    assert found.median <= found.p90 + 1e-12 <= abs(found.worst.error) + 2e-12
    assert sum(abs(each.error) <= found.p90 for each in scored) >= 0.9 * len(scored)


def test_the_interval_is_of_the_step_that_was_measured() -> None:
    assert _scored(10.9, 10).covered
    assert not _scored(11.1, 10).covered


def test_lengths_are_averaged_in_time_not_in_tokens() -> None:
    """Time grows faster than length, so the mean time is more than that of the mean length."""
    case = Case("x", "a", "meta-llama/Llama-2-7b-hf", "A100 SXM4 80GB", Recipe(seq_len=2080), "trl", ())
    ends = [predicted(Run(case, 1.0, "", lengths=(length,))).seconds for length in (64, 4096)]
    both = predicted(Run(case, 1.0, "", lengths=(64, 4096)))
    assert both.seconds == pytest.approx(sum(ends) / 2)
    assert both.low_seconds < both.seconds < both.high_seconds


def test_a_refused_recipe_becomes_an_excluded_row() -> None:
    case = Case("x", "a", "meta-llama/Llama-2-7b-hf", "T4", Recipe(compute_dtype="bf16"), "trl", ())
    scored, excluded = score([Run(case, 1.0, ""), Excluded("y", "a", "because")])
    assert scored == []
    assert excluded[0].reason.startswith("the estimator refuses it: no rates for bf16")
    assert excluded[1].reason == "because"


def test_pairs_differ_in_one_setting_only() -> None:
    lora, qlora = _scored(10, 10), _scored(15, 12, quantization="nf4")
    longer, full = _scored(20, 20, seq_len=4096), _scored(20, 18, method="full")
    found = {(pair.effect, pair.first.case.id, pair.second.case.id): pair for pair in pairs.found_pairs([lora, qlora, longer, full])}
    assert found.keys() == {
        ("quantization", lora.run.case.id, qlora.run.case.id),
        ("method", full.run.case.id, lora.run.case.id),
    }
    pair = found["quantization", lora.run.case.id, qlora.run.case.id]
    assert (pair.measured, pair.predicted) == (pytest.approx(10 / 15), pytest.approx(10 / 12))
    assert pair.clear
    assert pair.right


@pytest.mark.parametrize(
    ("measured", "predicted_ratio", "right"),
    [(0.6, 0.9, True), (0.6, 1.05, False), (1.3, 1.01, True), (1.3, 0.99, False), (1.05, 0.9, True), (0.98, 0.8, False), (1.0, 1.2, False)],
)
def test_the_sign_counts_where_the_effect_is_clear(measured: float, predicted_ratio: float, right: bool) -> None:
    run = _scored(1, 1).run
    assert pairs.Pair("quantization", run, run, measured, predicted_ratio).right is right


def test_every_documented_pair_is_found_with_the_published_ratio() -> None:
    """The contradictions of the published tables."""
    entries = load_yaml(ROOT / "benchmarks" / "accuracy" / "throughput" / "pairs.yaml")
    found = pairs.documented_pairs([each for each in runs() if isinstance(each, Run)])
    assert [(pair.first.case.id, pair.second.case.id) for pair in found] == [(each["first"], each["second"]) for each in entries]
    measured = {(pair.first.case.id, pair.second.case.id): pair.measured for pair in found}
    for first, second, ratio in (
        ("litgpt-rt-Llama2-7B-lora-None-mb1-x1", "litgpt-rt-Llama2-7B-lora-bnb.nf4-mb1-x1", 141.6 / 220.8),
        ("swift-quant-qwen-7b-chat-bf16-x", "swift-quant-qwen-7b-chat-nf4-bnb", 2.41 / 4.31),
        ("swift-fa1gc0-qwen-7b-chat", "swift-lora-qwen-7b-chat-2048", 4.31 / 6.19),
        ("litgpt-hub-llama-2-7b-lora-1xA10G", "litgpt-hub-llama-2-7b-qlora-1xA10G", 32.82 / 45.67),
        ("qwen1-7B-lora-s256", "qwen1-7B-q-lora-s256", 1.2 / 3.0),
        ("qwen1-7B-lora-s8192", "qwen1-7B-q-lora-s8192", 21.3 / 22.3),
        ("llamafactory-wiki-a100-HF-16bit", "llamafactory-wiki-a100-HF-4bit", 2415 / 2392),
        ("fms-a100_80gb-24bdadb-32", "fms-a100_80gb-24bdadb-56", 2904 / 3324),
        ("fms-a100_80gb-24bdadb-32", "fms-a100_80gb-24bdadb-76", 3596 / 3324),
        ("fms-a100_80gb-24bdadb-8", "fms-a100_80gb-24bdadb-32", 1.09),
        ("peft-mmqa-full-finetuning-llama-3.2-3B-lr_0.00001-2026-07-14", "peft-mmqa-lora-llama-3.2-3B-rank32-2026-07-15", 3.1),
    ):
        assert measured[first, second] == pytest.approx(ratio, rel=5e-3), second


def test_documented_pairs_differ_in_what_they_say() -> None:
    for pair in pairs.documented_pairs([each for each in runs() if isinstance(each, Run)]):
        first, second = pair.first.case.recipe, pair.second.case.recipe
        assert (first.quantization != second.quantization) == (pair.effect == "quantization"), pair.second.case.id
        assert (first.gradient_checkpointing, second.gradient_checkpointing) == (False, True) or pair.effect != "checkpointing"
        assert (first.method, second.method) == ("full", "lora") or pair.effect != "method"


def test_the_page_scores_the_groups_apart_and_says_which_part_is_reported() -> None:
    known, partly = _scored(10, 9), _scored(10, 2, unknown=("the lengths",))
    pair = pairs.Pair("checkpointing", known.run, partly.run, 0.7, 0.8, documented=True)
    text = report.page(report.Results([known, partly], [Excluded("y", "litgpt", "no such method")], [pair], ""))
    first, second = text.split("## Settings fully known")[1].split("## Settings partly known")
    assert "+11.1 %" in first
    assert "+400.0 %" not in first
    assert "| fms-acceleration | the lengths | 1 |" in second
    assert "| litgpt | no such method | 1 |" in text
    assert "| fully known, constants not derived from them: mean error <= 10 % | 11.1 % | miss |" in text
    assert "| checkpointing cost within 5 points | at most 10.0 off | miss |" in text
    assert "**derive**: litgpt" in text


def test_one_source_is_printed_and_nothing_written(capsys: pytest.CaptureFixture[str]) -> None:
    page = ROOT / "docs" / "throughput_accuracy.md"
    before = page.stat().st_mtime_ns
    assert command_line.main(["--throughput", "--only", "litgpt", "--part", "derive"]) == 0
    printed = capsys.readouterr().out
    assert "| litgpt | derive | 19 |" in printed
    assert "InternEvo |" not in printed
    assert page.stat().st_mtime_ns == before


def test_a_part_without_a_source_is_empty() -> None:
    assert results("litgpt", "report").scored == []


def test_the_table_has_a_line_for_every_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_rows(path, [_scored(10, 8, micro_batch=2, seq_len=100)], [Excluded("y", "litgpt", "because")])
    with path.open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert tuple(first) == COLUMNS
    assert (first["measured_tokens_per_s_per_gpu"], first["predicted_tokens_per_s_per_gpu"]) == ("20.0", "25.0")
    assert (first["error_percent"], first["known"], first["part"], first["covered"]) == ("25.00", "fully", "report", "False")
    assert (second["id"], second["part"], second["excluded_because"]) == ("y", "derive", "because")


def test_the_committed_table_names_every_published_speed() -> None:
    with (ROOT / "benchmarks" / "data" / "throughput_measurements.csv").open(newline="", encoding="utf-8") as file:
        ids = {row["id"] for row in csv.DictReader(file)}
    with (ROOT / "benchmarks" / "results" / "throughput_accuracy.csv").open(newline="", encoding="utf-8") as file:
        assert {row["id"] for row in csv.DictReader(file)} == ids


def test_the_summary_counts_the_runs_of_the_committed_table() -> None:
    every = summary.readings()
    assert f"- {sum(each.known == 'fully' for each in every)} published runs" in summary.summary()
    assert sum(int(line.split("|")[4]) for line in summary.table().splitlines()[2:]) == len(every)
