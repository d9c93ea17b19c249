"""Data files: the three shapes are read, and every kind of broken file is named in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.profiles.errors import InputError
from ftadvise.runner.data import Row, load_rows

GOOD = {"instruction": "Say hello.", "input": "", "output": "Hello."}


def _write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _jsonl(*rows: object) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def test_the_three_shapes(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    path = _write(tmp_path, "a.jsonl", _jsonl(GOOD | {"input": "to Ann"}, {"messages": turns}, {"text": "once"}))
    rows = load_rows(path).rows
    assert rows == (
        Row("instruction", prompt="Say hello.\n\nto Ann", text="Hello."),
        Row("messages", turns=(("user", "Hi"), ("assistant", "Hello"))),
        Row("text", text="once"),
    )


def test_json_csv_and_jsonl_give_the_same_rows(tmp_path: Path) -> None:
    jsonl = load_rows(_write(tmp_path, "a.jsonl", _jsonl(GOOD, GOOD | {"output": 'a "quoted", line\nand another'})))
    array = load_rows(_write(tmp_path, "a.json", json.dumps([GOOD, GOOD | {"output": 'a "quoted", line\nand another'}])))
    table = load_rows(
        _write(tmp_path, "a.csv", 'instruction,input,output\nSay hello.,,Hello.\nSay hello.,,"a ""quoted"", line\nand another"\n')
    )
    assert jsonl.rows == array.rows == table.rows
    assert jsonl.sha256 != array.sha256


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = _write(tmp_path_factory.mktemp("data"), "a.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert [row.text for row in load_rows(path).rows] == texts


def test_unescaped_line_separators_stay_inside_a_row(tmp_path: Path) -> None:
    assert load_rows(_write(tmp_path, "a.jsonl", _jsonl({"text": "one\u2028two"}))).rows[0].text == "one\u2028two"


def test_a_byte_order_mark_and_blank_lines_do_not_matter(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.jsonl", b"\xef\xbb\xbf" + _jsonl(GOOD).encode() + b"\n  \n" + _jsonl(GOOD).encode())
    assert len(load_rows(path).rows) == 2


def test_rows_with_nothing_to_learn_are_dropped_and_counted(tmp_path: Path) -> None:
    found = load_rows(_write(tmp_path, "a.jsonl", _jsonl(GOOD, GOOD | {"output": "  "}, {"text": ""})))
    assert (len(found.rows), found.dropped) == (1, 2)


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("a.jsonl", b"", "empty"),
        ("a.jsonl", b" \n\n", "empty"),
        ("a.json", b"[]", "no rows"),
        ("a.csv", b"instruction,output\n", "no rows"),
        ("a.jsonl", _jsonl(GOOD).encode() + b'{"instruction": "\xff"}', "not UTF-8 at byte 80"),
        ("a.jsonl", _jsonl(GOOD) + '{"instruction": "x", \n', "line 2: broken JSON"),
        ("a.jsonl", _jsonl(GOOD) + "\n[1]\n", "line 3: a row is an object, not list"),
        ("a.jsonl", _jsonl({"question": "x", "answer": "y"}), "line 1: columns are missing, found question, answer"),
        ("a.jsonl", _jsonl({"instruction": 5, "output": "x"}), "line 1: instruction must be text"),
        ("a.jsonl", _jsonl({"messages": "hi"}), "line 1: messages must be a list"),
        ("a.jsonl", _jsonl({"messages": [{"role": "boss", "content": "hi"}]}), "line 1: each message needs a role"),
        ("a.jsonl", _jsonl(GOOD | {"output": ""}), "no row has anything to learn"),
        ("a.jsonl", "[" * 100_000, "line 1: nested too deeply"),
        ("a.json", json.dumps(GOOD), "one array"),
        ("a.json", "[{,]", "broken JSON"),
        ("a.csv", "instruction,output\nx\n", "line 2: 2 columns expected"),
        ("a.csv", 'instruction,output\n"x,y\n', "broken CSV"),
        ("a.parquet", b"PAR1", r"not \.parquet"),
        ("rows", b"x", "not without an ending"),
    ],
)
def test_a_broken_file_is_named_in_one_line(tmp_path: Path, name: str, content: str | bytes, wanted: str) -> None:
    path = _write(tmp_path, name, content)
    with pytest.raises(InputError, match=wanted) as caught:
        load_rows(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_near_miss_of_a_column_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_rows(_write(tmp_path, "a.jsonl", _jsonl({"instructions": "x", "output": "y"})))
    assert caught.value.hint == "did you mean instruction?"


def test_a_missing_file_and_a_folder_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such data file"):
        load_rows(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="cannot be read"):
        load_rows(tmp_path)
