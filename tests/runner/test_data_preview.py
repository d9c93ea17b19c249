"""What `ftadvise data` gathers: samples with what is learned, lengths, problems; without torch."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.estimator.data_settings import DataSettings
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.model_spec import ModelSpec
from ftadvise.profiles.resolve_model import resolve_model
from ftadvise.runner.data import load_rows
from ftadvise.runner.data.preview import histogram, preview
from ftadvise.runner.data.writing import write_rows

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "?"}]


def _settings(folder: Path, *rows: Any, **settings: Any) -> DataSettings:
    path = folder / "rows.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return DataSettings(str(path), **settings)


@pytest.fixture
def model(demo_tokenizer: Any, tmp_path: Path) -> ModelSpec:
    """A model of which only the tokenizer is here."""
    demo_tokenizer.save_pretrained(tmp_path / "model")
    return dataclasses.replace(resolve_model("Qwen-7B"), local_path=str(tmp_path / "model"))


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=60))
def test_a_histogram_holds_every_row_once(lengths: list[int]) -> None:
    bars = histogram(sorted(lengths))
    assert sum(count for *_, count in bars) == len(lengths)
    assert 1 <= len(bars) <= 11
    for first, last, count in bars:
        assert count == sum(first <= length and (last is None or length <= last) for length in lengths)
    assert all(last is not None for _, last, _ in bars[:-1])
    assert [first for first, *_ in bars[1:]] == [(last or 0) + 1 for _, last, _ in bars[:-1]]


def test_a_few_long_rows_do_not_flatten_the_rest() -> None:
    bars = histogram([*range(1, 200), 100_000])
    assert bars[-1][1:] == (None, 1)
    assert len([count for *_, count in bars if count]) > 3


def test_samples_show_the_tokens_that_are_learned(model: ModelSpec, tmp_path: Path) -> None:
    found = preview(_settings(tmp_path, {"messages": CHAT}), model)
    (sample,) = found.samples
    assert [text for state, text in sample.segments if state == "learned"] == ["Hello<|im_end|>"]
    assert "".join(text for _, text in sample.segments).endswith("<|im_start|>user\n?<|im_end|>\n")
    assert (sample.tokens, found.lengths.measured) == (found.lengths.longest, True)
    (cut,) = preview(_settings(tmp_path, {"messages": CHAT}), model, seq_len=(sample.tokens or 0) - 4).samples
    assert [state for state, _ in cut.segments] == ["read", "learned", "read", "cut"]
    (everything,) = preview(_settings(tmp_path, {"messages": CHAT}, learn="all"), model).samples
    assert [state for state, _ in everything.segments] == ["learned"]


def test_without_a_model_turns_are_shown_and_lengths_estimated(tmp_path: Path) -> None:
    found = preview(_settings(tmp_path, *[{"messages": CHAT}] * 5), None, samples=2)
    assert [each.source for each in found.samples] == ["rows.jsonl, line 1", "rows.jsonl, line 5"]
    assert ("learned", "Hello") in found.samples[0].segments
    assert (found.samples[0].tokens, found.lengths.measured) == (None, False)
    (text,) = preview(_settings(tmp_path, {"text": "once"}), None).samples
    assert text.segments == (("learned", "once"),)


def test_broken_rows_are_all_listed_though_a_run_would_stop_at_the_first(tmp_path: Path) -> None:
    settings = _settings(tmp_path, {"text": "a"}, "{", {"text": 5})
    found = preview(settings, None)
    assert [each.source for each in found.rows.problems] == ["rows.jsonl, line 2", "rows.jsonl, line 3"]
    assert str(found.stops).startswith("rows.jsonl, line 2: broken JSON")
    assert preview(settings.replace(skip_broken=True), None).stops is None
    with pytest.raises(InputError, match="line 1: broken JSON"):
        preview(_settings(tmp_path, "{", "{"), None)


def test_the_document_is_json_and_complete(model: ModelSpec, tmp_path: Path) -> None:
    found = preview(_settings(tmp_path, {"messages": CHAT}, {"messages": CHAT}, "{"), model, seq_len=10)
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["schema"] == "ftadvise.data/1"
    assert (document["rows_read"], document["rows"], document["dropped"]) == (3, 2, 1)
    assert document["problems"] == {"broken": 1, "duplicate": 1}
    assert [each["kind"] for each in document["problems_listed"]] == ["broken", "duplicate"]
    assert document["lengths"]["truncated"] == 2
    assert sum(bar["rows"] for bar in document["lengths"]["histogram"]) == 2
    assert document["stops_at"].startswith("rows.jsonl, line 3")
    assert document["samples"][0]["segments"][0]["state"] == "read"


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    chat = [*CHAT[:1], CHAT[1] | {"weight": 0}, *CHAT]
    settings = _settings(
        tmp_path, {"conversations": chat}, *[{"conversations": [CHAT[0], CHAT[1] | {"content": str(at)}]} for at in range(9)]
    )
    found = load_rows(settings.replace(eval_share=0.3))
    written = write_rows(tmp_path / "out.jsonl", found)
    assert written == [(tmp_path / "out.jsonl", 7), (tmp_path / "out.eval.jsonl", 3)]
    again = load_rows(DataSettings(str(tmp_path / "out.jsonl"), eval_path=str(tmp_path / "out.eval.jsonl")))
    assert (again.rows, again.eval_rows) == (found.rows, found.eval_rows)
    with pytest.raises(InputError, match="exists already"):
        write_rows(tmp_path / "out.jsonl", found)
    texts = load_rows(_settings(tmp_path, {"text": "once"}))
    assert write_rows(tmp_path / "texts.jsonl", texts) == [(tmp_path / "texts.jsonl", 1)]
    assert load_rows(DataSettings(str(tmp_path / "texts.jsonl"))).rows == texts.rows
