"""Token lengths of the data: as the run will count them, or estimated; the arithmetic of batches."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.estimator.data_settings import DataSettings
from ftadvise.estimator.lengths import LengthStats
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.model_spec import ModelSpec
from ftadvise.profiles.resolve_model import default_model_id, resolve_model
from ftadvise.runner.data import Row, load_rows
from ftadvise.runner.lengths import estimated_length, token_lengths
from ftadvise.runner.tokens import tokenize_rows

ROWS = (
    Row("instruction", prompt="What is LoRA? 什么是 LoRA？", text="A small adapter."),
    Row("messages", turns=(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"))),
    Row("text", text="once upon a time"),
)
LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=7)


def _spec(folder: Path | None) -> ModelSpec:
    return dataclasses.replace(resolve_model("Qwen-7B"), local_path=str(folder) if folder else None)


@pytest.fixture(scope="module")
def folder(demo_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of which only the tokenizer is needed."""
    path = tmp_path_factory.mktemp("tokenizer")
    demo_tokenizer.save_pretrained(path)
    return path


def _as_the_run_counts(rows: tuple[Row, ...], tokenizer: Any) -> tuple[int, ...]:
    examples, _ = tokenize_rows(rows, tokenizer, 100_000)
    return tuple(sorted(len(example["input_ids"]) for example in examples))


def test_measured_lengths_are_those_of_the_run(folder: Path, demo_tokenizer: Any) -> None:
    rows = (*ROWS, *load_rows(DataSettings()).rows)
    stats = token_lengths(rows, _spec(folder))
    assert stats.measured
    assert stats.lengths == _as_the_run_counts(rows, demo_tokenizer)


def test_a_model_without_a_template_is_measured_in_the_plain_layout(folder: Path, tmp_path: Path) -> None:
    from ftadvise.runner.load_model import load_tokenizer

    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    config.pop("chat_template", None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    stats = token_lengths(ROWS, _spec(tmp_path))
    assert stats.measured
    assert stats.lengths == _as_the_run_counts(ROWS, load_tokenizer(tmp_path))


@pytest.mark.parametrize("broken", ["{}", "not json"])
def test_a_broken_tokenizer_or_template_means_an_estimate(folder: Path, tmp_path: Path, broken: str) -> None:
    (tmp_path / "tokenizer.json").write_text(broken, encoding="utf-8")
    assert not token_lengths(ROWS, _spec(tmp_path)).measured
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    assert token_lengths(ROWS, _spec(tmp_path)).measured
    (tmp_path / "chat_template.jinja").write_text("{% for x in %}", encoding="utf-8")
    assert not token_lengths(ROWS, _spec(tmp_path)).measured


def test_a_template_cannot_leave_its_sandbox(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "chat_template.jinja").write_text("{{ messages.__class__.__mro__[1].__subclasses__() }}", encoding="utf-8")
    assert not token_lengths(ROWS, _spec(tmp_path)).measured


def test_without_a_tokenizer_at_hand_lengths_are_estimated(tmp_path: Path) -> None:
    for spec in (_spec(tmp_path / "nowhere"), _spec(tmp_path / "gone.gguf"), _spec(None)):
        stats = token_lengths(ROWS, spec)
        assert not stats.measured
        assert stats.examples == len(ROWS)


def test_estimated_lengths_follow_the_documented_rule() -> None:
    assert estimated_length(Row("text", text="a" * 100)) == 30 + 5
    assert estimated_length(Row("text", text="中" * 100)) == 60 + 5
    assert estimated_length(Row("instruction", prompt="a" * 10, text="b" * 11)) == 7 + 10
    assert estimated_length(ROWS[1]) == 5 + 15


def test_the_estimate_is_near_the_real_tokens_of_english(folder: Path) -> None:
    english = [row for row in load_rows(DataSettings()).rows if f"{row.prompt}{row.text}".isascii()]
    real = token_lengths([Row("text", text=f"{row.prompt} {row.text}") for row in english], _spec(folder))
    estimated = fmean(estimated_length(Row("text", text=f"{row.prompt} {row.text}")) for row in english)
    assert real.measured
    assert 0.9 * real.mean < estimated < 1.6 * real.mean


@given(LENGTHS, st.integers(1, 9), st.integers(1, 60))
def test_a_batch_is_as_long_as_its_longest_example(lengths: list[int], sequences: int, seq_len: int) -> None:
    cut = [min(length, seq_len) for length in lengths]
    batches = itertools.combinations(cut, min(sequences, len(cut)))
    stats = LengthStats.of(lengths, measured=True)
    assert stats.padded_length(sequences, seq_len) == pytest.approx(fmean(max(batch) for batch in batches))


@given(LENGTHS)
def test_statistics(lengths: list[int]) -> None:
    stats = LengthStats.of(lengths, measured=False)
    assert stats.padded_length(1, 1000) == pytest.approx(stats.mean)
    assert stats.covering_seq_len % 64 == 0
    assert 0 <= stats.covering_seq_len - stats.longest < 64
    assert stats.truncated(stats.covering_seq_len) == 0
    assert stats.truncated(stats.percentile(50)) <= len(lengths) / 2
    assert stats.percentile(100) == stats.longest == max(lengths)
    document = stats.to_json(Recipe(micro_batch=2, seq_len=10, packing=True))
    assert document["truncated"] == sum(length > 10 for length in lengths)
    assert document["mean_batch_length"] == 10
    assert stats.packed_sequences(10) * 10 >= sum(min(length, 10) for length in lengths)


def test_no_lengths_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no lengths"):
        LengthStats.of([], measured=True)


def test_measuring_imports_neither_torch_nor_transformers(folder: Path) -> None:
    code = (
        "import sys; from ftadvise.api import data_lengths; from ftadvise.runner.data import demo_data_path\n"
        "from ftadvise.runner.light_tokenizer import LightTokenizer; from pathlib import Path\n"
        f"print(list(LightTokenizer(Path({str(folder)!r})).count(['hello world'], special=True)))\n"
        f"data_lengths(demo_data_path(), {default_model_id()!r})\n"
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[2]", "[]"]
