"""Sentences in terminals of any width: whole, in order, never wider than asked for."""

from __future__ import annotations

from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.text import Text

import ftadvise
from ftadvise.rendering.plan_view import plan_view
from ftadvise.rendering.sentence import Entries, Sentence

_WORDS = st.text(alphabet="显存不足时，量化（nf4）。abc -/. 7B\n", max_size=120)


def _printed(renderable: RenderableType, width: int) -> list[str]:
    console = Console(file=StringIO(), width=width, no_color=True, highlight=False)
    console.print(Group(renderable))  # alone, rich would print a copy of a text
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined,no-any-return]


@given(words=_WORDS, width=st.integers(min_value=2, max_value=90))
def test_nothing_is_lost_and_no_line_is_too_wide(words: str, width: int) -> None:
    lines = _printed(Sentence(words), width)
    assert all(cell_len(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(words.split())


@given(words=_WORDS, width=st.integers(min_value=8, max_value=90))
def test_nothing_is_lost_beside_or_below_heads(words: str, width: int) -> None:
    lines = _printed(Entries([((Text("a.b"), Text("建议")), Sentence(words))]), width)
    assert all(cell_len(line) <= width for line in lines)
    joined = "".join("".join(lines).split())
    assert sorted(joined) == sorted("".join(words.split()) + "a.b建议")


def test_chinese_breaks_between_characters_and_not_before_a_full_stop() -> None:
    assert _printed(Sentence("显存不足时用量化底座。"), 10) == ["显存不足时", "用量化底", "座。"]
    assert _printed(Sentence("选择 QLoRA（推荐）"), 12) == ["选择 QLoRA", "（推荐）"]


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_plan_is_whole_at_every_width(lang: str, width: int) -> None:
    plan = ftadvise.plan("Qwen-7B", gpu="RTX 3060 12GB")
    lines = _printed(plan_view(plan, lang, every_rule=True), width)
    assert max(map(cell_len, lines)) <= width
    assert not [line for line in lines if line.rstrip().endswith("…")]
    joined = "".join("".join(lines).split())
    for reason in plan.reasons:
        assert reason.rule in joined
    if width < 80:  # else other columns stand between the lines of a sentence
        return
    for warning in plan.warnings:
        assert "".join(warning.in_language(lang).split()) in joined
