"""The claims page: every claim of the documents, its figures, and a verdict that follows from them."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.claims.check import MEASURES, SHOWN, Row, Verdict, computed, verdict
from benchmarks.claims.page import checked, claims, entries
from benchmarks.claims.published import SOURCES

IDS = "trainable saving twice_as_fast 4bit_faster 7b 13b 65b fp16_weights r32_12gb 7b_min 8b_24gb a100_3x_3090 double_quant lora_accuracy"
Checked = dict[str, tuple[list[Row], list[Row], Verdict]]


@pytest.fixture(scope="module")
def found() -> Checked:
    return {claim["id"]: checked(claim) for claim in entries()}


def row(value: float, claimed: tuple[float, float] | None = (1, 2)) -> Row:
    return Row("a figure", value, str(value), claimed)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row(1), row(2)], "holds"),
        ([row(1), row(2.1)], "sometimes"),
        ([row(0.9), row(2.1)], "never"),
        ([row(1.5), row(9, None)], "holds"),
        ([row(9, None)], "unchecked"),
        ([], "unchecked"),
    ],
)
def test_the_verdict_follows_from_the_figures_that_count(rows: list[Row], expected: str) -> None:
    assert verdict(rows) == expected


def test_every_claim_of_the_documents_is_there_in_both_languages() -> None:
    assert [claim["id"] for claim in entries()] == [f"claim.{name}" for name in IDS.split()]
    for claim in entries():
        assert claim["en"].endswith(".")
        assert claim["zh"].endswith("。")
        assert claim["source"].startswith("D")


def test_what_the_page_says_belongs_to_the_verdict(found: Checked) -> None:
    """A change of the model that turns a verdict must turn its words too."""
    for claim in entries():
        _, _, outcome = found[claim["id"]]
        assert ("when" in claim) == (outcome == "sometimes"), f"{claim['id']}: {outcome}"


def test_entries_name_what_exists() -> None:
    for claim in entries():
        assert set(claim) <= {"id", "source", "en", "zh", "ours", "published", "when", "why"}, claim["id"]
        assert set(claim.get("published", {})) <= set(SOURCES)
        for entry in claim["ours"]:
            assert set(entry) <= {"what", "measure", "show", "of", "over", "each", "claimed"}, claim["id"]
            assert entry["measure"] in MEASURES
            assert entry["show"] in SHOWN


def test_rows_are_all_combinations_and_ratios_compare_one_change() -> None:
    entry: dict[str, Any] = {
        "what": "{model} at {seq_len}, r {rank}", "measure": "used", "show": "saving", "claimed": [0, 1],
        "of": {"model": "SmolLM2-135M", "method": "qlora"}, "over": {"method": "lora"},
        "each": {"seq_len": [128, 256], "rank": [8, 16]},
    }  # fmt: skip
    rows = list(computed(entry))
    assert [each.what for each in rows] == [f"SmolLM2-135M at {n}, r {r}" for n in (128, 256) for r in (8, 16)]
    qlora = MEASURES["used"](model="SmolLM2-135M", method="qlora", seq_len=128, rank=8)
    lora = MEASURES["used"](model="SmolLM2-135M", method="lora", seq_len=128, rank=8)
    assert rows[0].value == pytest.approx(1 - qlora / lora)


def test_published_pairs_show_every_sign_of_the_speed_of_qlora(found: Checked) -> None:
    _, published, outcome = found["claim.twice_as_fast"]
    assert outcome == "never"
    assert {each.shown.split(", ")[1] for each in published} == {"slower", "as fast", "faster"}
    assert all(each.beside for each in published)


def test_published_savings_are_met_by_our_estimates(found: Checked) -> None:
    """Both are savings; litgpt and fms state their settings, so theirs agree within 3 points."""
    _, published, _ = found["claim.saving"]
    known = [each for each in published if "litgpt" in each.what or "fms" in each.what]
    assert len(known) >= 15
    for each in known:
        ours = float(each.beside.split()[0]) * (1 if each.beside.endswith("less") else -1)
        assert 100 * each.value == pytest.approx(ours, abs=3), each.what


def test_the_page_has_a_section_and_a_link_for_every_claim() -> None:
    page = claims()
    for claim in entries():
        assert f"\n## {claim['id']}\n" in page
        assert f"(#{claim['id'].replace('.', '')})" in page
    assert "{" not in page
    assert "?" not in page.replace("？", "")
