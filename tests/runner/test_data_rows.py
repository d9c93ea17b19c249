"""Data files: every kind of file is read, and every kind of broken file is named in one line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.estimator.data_settings import DataSettings
from ftadvise.profiles.errors import InputError
from ftadvise.runner import data
from ftadvise.runner.data import Row, RowSet

GOOD = {"instruction": "Say hello.", "input": "", "output": "Hello."}
QUOTED = GOOD | {"output": 'a "quoted", line\nand another'}


def load_rows(path: Path, **settings: Any) -> RowSet:
    return data.load_rows(DataSettings(str(path), **settings))


def _write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _jsonl(*rows: object) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    text = _jsonl(GOOD, QUOTED)
    table = 'instruction,input,output\nSay hello.,,Hello.\nSay hello.,,"a ""quoted"", line\nand another"\n'
    paths = [
        _write(tmp_path, "a.jsonl", text),
        _write(tmp_path, "a.ndjson", b"\xef\xbb\xbf" + text.replace("\n", "\r\n\r\n").encode()),
        _write(tmp_path, "a.json", json.dumps([GOOD, QUOTED], indent=2)),
        _write(tmp_path, "lines.json", text),
        _write(tmp_path, "a.csv", table),
        _write(tmp_path, "semicolon.csv", table.replace(",", ";").replace('""; line', '"", line')),
        _write(
            tmp_path, "a.tsv", '"instruction"\t"input"\t"output"\nSay hello.\t\tHello.\nSay hello.\t\t"a ""quoted"", line\nand another"\n'
        ),
        _write(tmp_path, "a.jsonl.gz", gzip.compress(text.encode())),
        _parquet(tmp_path / "a.parquet", [GOOD, QUOTED]),
    ]
    for name, opened in (("stream.arrow", pyarrow.ipc.new_stream), ("file.arrow", pyarrow.ipc.new_file)):
        table_of_rows = pyarrow.Table.from_pylist([GOOD, QUOTED])
        with opened(str(tmp_path / name), table_of_rows.schema) as writer:
            writer.write_table(table_of_rows)
        paths.append(tmp_path / name)
    expected = (Row("instruction", "Say hello.", "Hello."), Row("instruction", "Say hello.", QUOTED["output"]))
    assert {path.name: load_rows(path).rows for path in paths} == {path.name: expected for path in paths}
    assert len({load_rows(path).sha256 for path in paths}) == len(paths) - 1, "lines.json has the bytes of a.jsonl"


def test_a_text_file_has_a_row_in_each_line(tmp_path: Path) -> None:
    found = load_rows(_write(tmp_path, "a.txt", "one\n\n  \ntwo \u2028 half\r\n"))
    assert [(row.text, row.source) for row in found.rows] == [("one", "a.txt, line 1"), ("two \u2028 half", "a.txt, line 4")]


def test_tab_separated_files_of_benchmarks_have_lone_quotation_marks(tmp_path: Path) -> None:
    path = _write(tmp_path, "sst2.tsv", 'sentence\tlabel\nthe " in here\t1\n"start only\t0\n')
    assert [row.label for row in load_rows(path).rows] == ["1", "0"]
    assert '"start only' in (load_rows(path).rows[1].prompt or "")


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("data")
    path = _write(folder, "a.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert [row.text for row in load_rows(path).rows] == texts
    array = _write(folder, "a.json", json.dumps([{"text": text} for text in texts], ensure_ascii=False))
    assert [row.text for row in load_rows(array).rows] == texts


@given(st.binary(max_size=200))
def test_any_bytes_are_rows_or_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    for name in ("a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.jsonl.gz", "a.parquet"):
        path = _write(folder, name, content)
        try:
            refusal, rows = "", load_rows(path, skip_broken=True).rows
        except InputError as error:
            refusal, rows = str(error), ()
        assert bool(rows) != bool(refusal)
        assert "\n" not in refusal


def test_rows_with_nothing_to_learn_are_dropped_counted_and_named(tmp_path: Path) -> None:
    found = load_rows(_write(tmp_path, "a.jsonl", _jsonl(GOOD, GOOD | {"output": "  "}, GOOD | {"output": None})))
    assert (len(found.rows), found.dropped, found.read) == (1, 2, 3)
    assert [(each.kind, each.source) for each in found.problems] == [("empty", "a.jsonl, line 2"), ("empty", "a.jsonl, line 3")]
    assert found.summary()["problems"] == {"empty": 2}


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("a.jsonl", b"", "no rows"),
        ("a.jsonl", b" \n\n", "no rows"),
        ("a.json", b"[]", "no rows"),
        ("a.csv", b"instruction,output\n", "no rows"),
        ("a.jsonl", _jsonl(GOOD).encode() + b'{"instruction": "\xff"}', "line 2: not UTF-8 at byte 80"),
        ("a.csv", b"instruction,output\nx,\xff\n", "line 2: not UTF-8 at byte 21"),
        ("a.json", b'[{"text": "a"},\n{"text": "\xff"}]', "line 2: not UTF-8 at byte 26"),
        ("a.jsonl", _jsonl(GOOD) + '{"instruction": "x", \n', "line 2: broken JSON"),
        ("a.jsonl", _jsonl(GOOD) + "\n[1]\n", "line 3: a row is an object, not list"),
        ("a.jsonl", _jsonl({"title": "x", "body": "y"}), "line 1: columns are missing, found title, body"),
        ("a.jsonl", _jsonl({"instruction": 5, "output": "x"}), "line 1: instruction must be text"),
        ("a.jsonl", _jsonl({"messages": "hi"}), "line 1: messages must be a list"),
        ("a.jsonl", _jsonl({"messages": [{"role": "boss", "content": "hi"}]}), "line 1: messages 1: each message needs a role"),
        ("a.jsonl", _jsonl({"messages": [{"role": "user"}]}), "line 1: messages 1: each message needs content"),
        ("a.jsonl", '{"text": "\\ud800"}\n', "line 1: text holds half a character"),
        ("a.jsonl", '{"text": ' + "9" * 5000 + "}\n", "line 1: "),
        ("a.jsonl", _jsonl(GOOD | {"output": ""}), "no row has anything to learn"),
        ("a.jsonl", _jsonl(GOOD, {"text": "x"}), "line 2: text format, while line 1 is alpaca"),
        ("a.jsonl", _jsonl(GOOD, {"instruction": "x"}), "line 2: columns are missing, found instruction"),
        ("a.jsonl", "[" * 100_000, "line 1: nested too deeply"),
        ("a.json", '{\n"text": "x"\n}', "one array"),
        ("a.json", "[{,]", "row 1, line 1: broken JSON"),
        ("a.json", '[{"text": "x"},\n\n{"text": ]', "row 2, line 3: broken JSON"),
        ("a.json", '[{"text": "x"}\n', "row 1, line 1: broken JSON: a comma"),
        ("a.json", '[{"text": "x"}] more', "more text follows"),
        ("a.json", "[" * 100_000, "row 1, line 1: nested too deeply"),
        ("a.csv", "instruction,output\nx\n", "line 2: 2 columns expected, found 1"),
        ("a.csv", 'instruction,output\n"x,y\n', "line 2: broken CSV"),
        ("a.csv", "output,output\nx,y\n", "two columns are named 'output'"),
        ("a.parquet", b"PAR1", "not a whole parquet file"),
        ("a.arrow", b"ARROW1\0\0", "not a whole arrow file"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "abc"}' * 99, mtime=0)[:30], "cannot be read"),
        ("a.xlsx", b"PK", r"not \.xlsx"),
        ("rows", b"x", "not without an ending"),
    ],
)
def test_a_broken_file_is_named_in_one_line(tmp_path: Path, name: str, content: str | bytes, wanted: str) -> None:
    path = _write(tmp_path, name, content)
    with pytest.raises(InputError, match=wanted) as caught:
        load_rows(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("encoding", "named"), [("utf-16", "UTF-16"), ("utf-16-le", "UTF-16"), ("gb18030", "GB18030"), ("cp1252", "Windows-1252")]
)
def test_the_usual_encodings_are_suggested(tmp_path: Path, encoding: str, named: str) -> None:
    words = "déjà vu" if encoding == "cp1252" else "什么是微调？"
    path = _write(tmp_path, "it's.jsonl", json.dumps({"text": words}, ensure_ascii=False).encode(encoding))
    with pytest.raises(InputError, match="not UTF-8") as caught:
        load_rows(path)
    assert f"iconv -f {named} -t UTF-8" in (caught.value.hint or "")


def test_broken_rows_are_left_out_where_asked_for_and_listed(tmp_path: Path) -> None:
    lines = ["{", json.dumps(GOOD), '{"text": "other format"}', "\udcff", json.dumps(GOOD | {"instruction": 7}), json.dumps(QUOTED)]
    path = _write(tmp_path, "a.jsonl", "\n".join(lines).encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match="line 1: broken JSON"):
        load_rows(path)
    found = load_rows(path, skip_broken=True)
    assert [row.source for row in found.rows] == ["a.jsonl, line 2", "a.jsonl, line 6"]
    assert [each.source for each in found.problems if each.kind == "broken"] == [f"a.jsonl, line {line}" for line in (1, 3, 4, 5)]
    assert (found.dropped, found.summary()["problems"]) == (4, {"broken": 4})


def test_a_single_line_of_megabytes_is_read_in_time_that_grows_with_it(tmp_path: Path) -> None:
    row = {"text": "word " * 2_000_000}
    for name, content in (
        ("a.json", json.dumps([row])),
        ("a.jsonl", json.dumps(row)),
        ("a.csv", f"text\n{row['text']}\n"),
        ("a.txt", row["text"]),
    ):
        assert len(load_rows(_write(tmp_path, name, content)).rows[0].text) == 10_000_000, name
    with pytest.raises(InputError, match="line 1: broken JSON"):
        load_rows(_write(tmp_path, "b.jsonl", '{"text": "' + "\\" * 10_000_001))


def test_a_near_miss_of_a_column_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_rows(_write(tmp_path, "a.jsonl", _jsonl({"instructions": "x", "output": "y"})))
    assert caught.value.hint == "did you mean instruction?"
