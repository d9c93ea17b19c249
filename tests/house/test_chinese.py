"""Everything that is said in English is said in Chinese: views, page, planner, rules, errors, hints and notes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from code_sentences import sentences
from house import ROOT, our_files

from ftadvise.rendering.chinese import chinese_sentences, in_language
from ftadvise.rendering.texts import FILES, texts_of

_PLACEHOLDER = re.compile(r"{(\w*)}")
_HAN = re.compile("[\u4e00-\u9fff]")
_SAME = re.compile(r"[\W\d]*|GPUs?|[^a-z]*")
"""Texts that need no translation, apart from what is filled in: signs, names, figures."""
_COMMAND = re.compile(r"--|ftadvise |pip |[^a-z]*$|target_modules {")
_LEAST_SHARE = 0.95
"""Of the sentences in the code that must have Chinese: those of a change in progress may lack it."""


def _fields(words: str) -> set[str]:
    return set(_PLACEHOLDER.findall(words))


def _code_sentences() -> dict[str, str]:
    """Where each sentence of the code is; commands to type are no sentences."""
    found = {}
    for path in our_files():
        room = path.relative_to(ROOT).parts[0]
        if path.suffix == ".py" and room in ("profiles", "estimator", "advisor", "runner", "ftadvise"):
            for line, pattern in sentences(path):
                found.setdefault(pattern, f"{path.relative_to(ROOT).as_posix()}:{line}")
    return found


@pytest.mark.parametrize("file", ["texts.yaml", *FILES.values()])
def test_every_text_of_the_views_is_there_in_both_languages(file: str) -> None:
    texts = texts_of(file)
    assert len(texts) > 10
    lacking = {key: words for key, words in texts.items() if set(words) != {"en", "zh"} or _fields(words["en"]) != _fields(words["zh"])}
    assert lacking == {}
    english = {
        key: words["zh"]
        for key, words in texts.items()
        if not _HAN.search(words["zh"]) and not _SAME.fullmatch(_PLACEHOLDER.sub("", words["zh"]))
    }
    assert english == {}


def test_texts_that_the_code_asks_for_exist() -> None:
    known = {key for file in ("texts.yaml", *FILES.values()) for key in texts_of(file)}
    for path in our_files():
        if path.suffix == ".py" and path.is_relative_to(ROOT / "ftadvise"):
            asked = re.findall(r"\btext\(\s*\"([\w. +]+)\"", path.read_text(encoding="utf-8"))
            assert [key for key in asked if key not in known] == [], path.name


def test_every_error_hint_and_note_of_the_code_has_chinese() -> None:
    """ftadvise/rendering/chinese.yaml has each sentence as it stands in the code; a new one goes there too."""
    known = {_PLACEHOLDER.sub("{}", english) for english in chinese_sentences()["code"]}
    found = _code_sentences()
    assert len(found) > 250
    missing = {pattern: where for pattern, where in found.items() if pattern not in known and not _COMMAND.match(pattern)}
    assert len(missing) <= (1 - _LEAST_SHARE) * len(found), missing
    gone = sorted(known - found.keys())
    assert len(gone) <= (1 - _LEAST_SHARE) * len(found), f"no longer said by the code: {gone}"


@pytest.mark.parametrize("part", ["code", "assembled"])
def test_chinese_sentences_keep_what_is_filled_in(part: str) -> None:
    pairs: Mapping[str, str] = chinese_sentences()[part]
    assert {english: chinese for english, chinese in pairs.items() if _fields(english) != _fields(chinese)} == {}
    same = [english for english, chinese in pairs.items() if not _HAN.search(chinese)]
    assert [english for english in same if _PLACEHOLDER.sub("", english).strip(":, ") and not _COMMAND.match(english)] == []


def test_sentences_inside_sentences_are_translated_and_values_are_not() -> None:
    shown = in_language(
        "my: file.yaml, line 3, rule a.b, key 'weight': weight must be a whole number from 1 to 10, not 'no such file'", "zh"
    )
    assert shown == "my: file.yaml 第 3 行，规则 a.b，键 'weight'：weight 必须是 1 到 10 的整数，而不是 'no such file'"
    assert in_language("anything else", "zh") == "anything else"
    assert in_language("unknown model 'x'", "en") == "unknown model 'x'"


def test_braces_in_a_value_do_no_harm() -> None:
    assert in_language("unknown model '{0.__class__} {x}'", "zh") == "未知的模型 '{0.__class__} {x}'"


def test_no_sentence_takes_long_to_recognise() -> None:
    """Patterns are matched against what a hostile file says; a long line must not make them search for ever."""
    hostile = "unknown " + ": {} is " * 2000 + Path("x").name
    assert in_language(hostile, "zh")
