"""Equal rows, ids that are there twice, and what is held back for evaluation."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.estimator.data_settings import DataSettings
from ftadvise.profiles.errors import InputError
from ftadvise.runner.data import Row, RowSet, load_rows
from ftadvise.runner.data.distinct import held_back, row_key

KEYS = st.lists(st.binary(min_size=2, max_size=4), min_size=1, max_size=60, unique=True)


def _load(path: Path, rows: list[dict[str, Any]], **settings: Any) -> RowSet:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_rows(DataSettings(str(path), **settings))


@given(KEYS, st.floats(0.01, 0.99), st.randoms())
def test_the_split_depends_on_the_rows_alone(keys: list[bytes], share: float, draw: random.Random) -> None:
    chosen = held_back(keys, share)
    assert len(chosen) == max(1, round(share * len(keys)))
    mixed = [*keys, *keys[:5]]
    draw.shuffle(mixed)
    assert held_back(mixed, share) == chosen


@given(KEYS, st.floats(0.1, 0.9))
def test_more_rows_move_few(keys: list[bytes], share: float) -> None:
    added = [*keys, b"one more row"]
    assert len(held_back(keys, share) - held_back(added, share)) <= 1


def test_white_space_makes_no_difference_but_roles_do() -> None:
    one = Row("instruction", "What  is\nit?", "That. ")
    assert row_key(one) == row_key(Row("messages", turns=(("user", "What is it?"), ("assistant", "That."))))
    assert row_key(one) != row_key(Row("messages", turns=(("assistant", "What is it?"), ("user", "That."))))
    assert row_key(one) != row_key(Row("instruction", "What is", "it? That."))


def test_equal_rows_are_on_one_side(tmp_path: Path) -> None:
    rows = [{"text": f"row {number % 50}"} for number in range(150)]
    found = _load(tmp_path / "a.jsonl", rows, eval_share=0.2)
    learned, evaluated = ({row.text for row in part} for part in (found.rows, found.eval_rows))
    assert (len(learned), len(evaluated)) == (40, 10)
    assert not learned & evaluated
    assert (len(found.rows), len(found.eval_rows), found.dropped) == (120, 30, 0)
    rows.reverse()
    assert {row.text for row in _load(tmp_path / "b.jsonl", rows, eval_share=0.2).eval_rows} == evaluated


def test_duplicates_are_counted_named_and_removed_when_asked(tmp_path: Path) -> None:
    rows = [{"text": "a"}, {"text": "b"}, {"text": " a "}, {"text": "a"}]
    found = _load(tmp_path / "a.jsonl", rows)
    assert (len(found.rows), found.summary()["problems"], found.dropped) == (4, {"duplicate": 2}, 0)
    assert (found.problems[0].source, found.problems[0].text) == ("a.jsonl, line 3", "says the same as a.jsonl, line 1")
    found = _load(tmp_path / "a.jsonl", rows, drop_duplicates=True)
    assert ([row.text for row in found.rows], found.dropped) == (["a", "b"], 2)


def test_ids_that_are_there_twice_are_named(tmp_path: Path) -> None:
    found = _load(
        tmp_path / "a.jsonl", [{"id": 1, "text": "a"}, {"id": "x", "text": "b"}, {"id": 1, "text": "c"}, {"id": None, "text": "d"}]
    )
    assert len(found.rows) == 4
    assert [(each.kind, each.source) for each in found.problems] == [("duplicate_id", "a.jsonl, line 3")]
    assert found.problems[0].text == "the id '1' is also that of a.jsonl, line 1"


def test_what_is_learned_is_not_evaluated(tmp_path: Path) -> None:
    other = tmp_path / "eval.jsonl"
    _load(other, [{"text": "b"}, {"text": "new"}])
    found = _load(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b"}], eval_path=str(other))
    assert [row.text for row in found.eval_rows] == ["new"]
    assert [(each.kind, each.source) for each in found.problems] == [("leaked", "eval.jsonl, line 1")]
    assert (found.read, found.dropped, [file.rows for file in found.eval_files]) == (4, 1, [2])
    _load(other, [{"text": "b"}])
    with pytest.raises(InputError, match="every row is also among those to learn"):
        _load(tmp_path / "a.jsonl", [{"text": "b"}], eval_path=str(other))


def test_a_share_that_leaves_nothing_to_learn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"eval_share 0\.5 leaves no row to learn"):
        _load(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "a"}], eval_share=0.5)


def test_only_the_first_problems_are_listed(tmp_path: Path) -> None:
    found = _load(tmp_path / "a.jsonl", [{"text": "same"}] * 500)
    assert (dict(found.counts), len(found.problems)) == ({"duplicate": 499}, 100)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"eval_share": 1.0}, "eval_share must be"),
        ({"eval_share": float("nan")}, "eval_share must be"),
        ({"learn": "answer"}, "learn must be"),
        ({"eval_share": 0.1, "eval_path": "x"}, "both say"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], wanted: str) -> None:
    with pytest.raises(InputError, match=wanted):
        DataSettings("rows.jsonl", **settings)
