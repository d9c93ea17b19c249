"""The page of a run: whole, honest, closed to the network, safe against what is in a report, in both languages."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest
from finished_reports import FALL_BACKS, finished_report, several_ranks
from hypothesis import given
from hypothesis import strategies as st
from page_reader import Page

import ftadvise
from ftadvise.profiles.errors import InputError
from ftadvise.rendering.report_page import MARK, report_page, write_report_page
from ftadvise.rendering.report_page.chart import Axis, Level, Line, Mark, Scale, line_chart, path, ticks
from ftadvise.rendering.units import gib, rate
from ftadvise.runner.report import RunReport, comparison_rows, recipe_of

LANGUAGES = ("en", "zh")
_ENGLISH_SENTENCE = re.compile(r"[A-Za-z]{2,}(?: [a-z]{2,}){4,}")
_HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e&amp;\"'"


def _whole() -> RunReport:
    return finished_report(attempts=FALL_BACKS, ranks=several_ranks())


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("gpu", ["RTX 4090", "cpu"])
def test_pages_are_well_formed_and_load_nothing(lang: str, gpu: str) -> None:
    html = report_page(_whole() if gpu != "cpu" else finished_report("cpu", steps=5), lang)
    page = Page(html)
    assert page.problems == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids) > 6
    assert {each["href"] for each in page.all("a")} == {f"#{each}" for each in ids}
    assert page.all("html") == [{"lang": "zh-CN" if lang == "zh" else "en"}]
    assert {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object", "form", "base"} == set()
    assert page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"].startswith("default-src 'none'")
    assert page.all("meta", name="generator") == [{"name": "generator", "content": MARK}]


def test_what_the_report_says_is_on_the_page() -> None:
    report = _whole()
    page = Page(report_page(report, "en"))
    for row in comparison_rows(report):
        for size in (row.predicted_bytes, row.measured_bytes):
            assert size is None or gib(size) in page.words
    assert rate(report.tokens_per_second or 0) in page.words
    for field in dataclasses.fields(recipe_of(report)):
        assert field.name in page.texts
    for attempt in FALL_BACKS:
        assert str(attempt["message"]) in page.words
    assert "micro_batch 2 → 1, gradient_accumulation 8 → 16" in page.words
    for said in ("node-1", "ab" * 32, "数据.jsonl", "5,000", "torch", "5.23.0", "LoRA is a radio technology.", ftadvise.__version__):
        assert said in page.words


def test_chinese_pages_are_chinese() -> None:
    report = dataclasses.replace(_whole(), answer=None, attempts=tuple({**each, "message": ""} for each in FALL_BACKS))
    page = Page(report_page(report, "zh"))
    english = [words for words in page.texts if _ENGLISH_SENTENCE.search(words) and "torch.cuda" not in words]
    assert english == []
    assert "第 2 次尝试" in page.words


def test_the_curves_have_names_for_those_who_cannot_see_them() -> None:
    page = Page(report_page(_whole(), "en"))
    charts = page.all("svg", class_="chart")
    assert len(charts) == 2
    assert all(chart["role"] == "img" for chart in charts)
    loss, memory = (chart["aria-label"] for chart in charts)
    assert "over 400 steps" in loss
    assert "best" in loss
    assert "predicted" in memory
    assert "24.0 GiB" in memory
    assert len(page.all("circle")) == 5  # a dot for each evaluation
    assert len(page.all("line", class_="moment")) == 4  # attempts 2 and 3, in both
    assert {"level predicted", "level device"} == {each["class"] for each in page.all("line", class_="level")}


def test_attempts_that_began_together_have_one_mark() -> None:
    attempts = tuple({**FALL_BACKS[0], "number": number, "from_step": 0, "to_step": 0} for number in (1, 2, 3))
    page = Page(report_page(finished_report(steps=20, attempts=attempts), "en"))
    assert page.texts.count("attempt 3") == 2  # the mark on the timeline and what it says when pointed at
    assert "attempt 2" not in page.texts


def test_a_card_far_above_the_use_does_not_press_the_curve_flat() -> None:
    page = Page(report_page(finished_report("H200"), "en"))
    assert [each["class"] for each in page.all("line", class_="level")] == ["level predicted"]
    assert "far above the chart" in page.words


@pytest.mark.parametrize(
    ("section", "nothing"),
    [
        ("loss", {"losses": (), "evaluations": ()}),
        ("timeline", {"timeline": ()}),
        ("timeline", {"timeline": ((0, 0.0, None),)}),
        ("answer", {"answer": None}),
        ("ranks", {}),
        ("attempts", {"attempts": FALL_BACKS[-1:]}),
    ],
)
def test_what_is_not_there_is_left_out(section: str, nothing: dict[str, Any]) -> None:
    page = Page(report_page(finished_report(steps=5, **nothing), "en"))
    assert page.problems == []
    assert section not in {each["id"] for each in page.all("section")}
    assert section in {each["id"] for each in Page(report_page(_whole(), "en")).all("section")}


def test_an_old_report_has_a_page() -> None:
    report = finished_report(steps=3, evaluations=(), timeline=(), training_peak=None, tokens_per_second=None, seconds_per_step=None)
    speechless = dataclasses.replace(report, predicted_at_measured={**report.predicted_at_measured, "throughput": None})
    for each in (report, speechless, dataclasses.replace(speechless, tokens_per_second=5.0, seconds_per_step=1.0)):
        assert Page(report_page(each, "en")).problems == []


def test_losses_that_are_not_numbers_break_the_line() -> None:
    page = Page(report_page(finished_report(losses=((1, 2.0), (2, 1.0), (3, None), (4, 1.5), (5, 1.4)), evaluations=()), "en"))
    assert page.all("path", class_="first")[0]["d"].count("M") == 2
    assert "1 steps had a loss that is not a number" in page.words


def test_nothing_in_a_report_becomes_markup() -> None:
    report = finished_report(
        steps=3,
        model={"id": _HOSTILE, "parameters": 1},
        versions={_HOSTILE: _HOSTILE},
        notes=(_HOSTILE,),
        data={"path": _HOSTILE, "sha256": _HOSTILE, _HOSTILE: 3},
        attempts=(
            {"number": 1, "status": _HOSTILE, "message": _HOSTILE, "from_step": 0, "to_step": 1, "changes": {_HOSTILE: [1, _HOSTILE]}},
        )
        * 2,
        ranks=({**several_ranks(1)[0], "host": _HOSTILE},),
    )
    html = report_page(report, "en")
    page = Page(html)
    assert page.problems == []
    assert page.all("script") == []
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert page.words.count("<script>alert(1)</script>") >= 9


def test_a_long_run_is_a_small_page() -> None:
    report = finished_report(steps=50_000)
    assert len(report_page(report, "en")) < 150_000


def test_the_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report_page(finished_report(steps=3), path)
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>\n")
    with pytest.raises(InputError):
        write_report_page(finished_report(steps=3), tmp_path / "no folder" / "report.html")
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


NUMBERS = st.floats(-1e18, 1e18).map(lambda value: 0.0 if abs(value) < 1e-30 else value)


@given(NUMBERS, NUMBERS, st.sampled_from([10.0, 60.0, 2.0]))
def test_ticks_hold_the_values_between_them(one: float, other: float, base: float) -> None:
    low, high = min(one, other), max(one, other)
    found = ticks(low, high, base=base)
    assert 2 <= len(found) <= 9
    slack = 1e-6 * max(abs(low), abs(high), high - low)
    assert found[0] <= low + slack
    assert found[-1] >= high - slack


@pytest.mark.parametrize(
    ("low", "high", "options", "expected"),
    [
        (0.9, 2.5, {}, [0.5, 1.0, 1.5, 2.0, 2.5]),
        (0, 24 << 30, {"base": 2}, [0, 8 << 30, 16 << 30, 24 << 30]),
        (0, 3000, {"base": 60}, [0, 600, 1200, 1800, 2400, 3000]),
        (1, 3, {"least": 1.0}, [1, 2, 3]),
        (0, 400_000, {"base": 60}, [0, 86400, 172800, 259200, 345600, 432000]),
    ],
)
def test_ticks_are_round(low: float, high: float, options: dict[str, float], expected: list[float]) -> None:
    assert ticks(low, high, **options) == pytest.approx(expected)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.none() | st.floats(-1e6, 1e6)), min_size=1, max_size=50))
def test_a_path_stays_in_its_square_and_has_every_point(points: list[tuple[float, float | None]]) -> None:
    values = [y for _, y in points if y is not None] or [0.0]
    drawn = path(points, Scale(min(x for x, _ in points), max(x for x, _ in points)), Scale(min(values), max(values)))
    places = re.findall(r"[ML](\S+) ([^ML]+)", drawn)
    assert len(places) == sum(y is not None for _, y in points)
    assert all(0 <= float(number) <= 1000 for place in places for number in place)


def test_a_chart_without_points_is_nothing() -> None:
    axis = Axis("x", str)
    assert line_chart("t", "d", axis, axis, [Line("a", [(1.0, None)], "first")]) == []
    assert line_chart("t", "d", axis, axis, [], [Level("l", 1.0, "device")], [Mark("m", 1.0)]) == []
    assert math.isclose(Scale(3.0, 3.0)(3.0), 0.5)
