"""Scores of known answers: those of the libraries, and intervals that mean what they say. No model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.profiles.errors import InputError
from ftadvise.runner.data.rows import Row

pytest.importorskip("numpy")
import numpy as np

from ftadvise.rendering.eval_view import eval_view
from ftadvise.runner.evaluate.classes import classes_of, hits, most_frequent, percent, variants
from ftadvise.runner.evaluate.evaluation import METRICS, EvalSettings, Evaluation, Sample, named_metrics, write_evaluation
from ftadvise.runner.evaluate.losses import mean_loss
from ftadvise.runner.evaluate.paired import Measure, paired
from ftadvise.runner.evaluate.rows import drawn, question
from ftadvise.runner.evaluate.text_scores import ROUGE_TYPES, Bleu, Rouge

ENGLISH = (
    ["the cat sat on the mat", "a quick brown fox jumps", "there is nothing here to see"],
    ["the cat sat on the red mat", "the quick brown fox jumps over it", "nothing to see"],
)
CHINESE = (["今天天气很好", "我喜欢学习语言"], ["今天的天气非常好", "我很喜欢学习新的语言"])
JAPANESE = (["今日はいい天気です"], ["今日はとてもいい天気です"])


@pytest.mark.parametrize(("texts", "tokenize"), [(ENGLISH, "13a"), (CHINESE, "zh"), (JAPANESE, "char")])
def test_bleu_is_sacrebleu_s(texts: tuple[list[str], list[str]], tokenize: str) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    answers, references = texts
    bleu = Bleu(references)
    assert bleu.tokenize == tokenize
    expected = sacrebleu.corpus_bleu(answers, [references], tokenize=tokenize).score
    assert bleu.value(bleu.statistics(answers, references).sum(axis=0)) == pytest.approx(expected)
    assert 0 < expected < 100
    assert f"tokenize {tokenize}" in bleu.how


def test_a_perfect_and_an_empty_answer() -> None:
    pytest.importorskip("sacrebleu")
    references = ["the cat sat on the mat today"]
    bleu = Bleu(references)
    assert bleu.value(bleu.statistics(references, references).sum(axis=0)) == pytest.approx(100)
    assert bleu.value(bleu.statistics([""], references).sum(axis=0)) == 0


def test_rouge_is_rouge_score_s_for_english() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(list(ROUGE_TYPES))
    rouge = Rouge(ENGLISH[1])
    assert not rouge.own_words
    found = rouge.statistics(*ENGLISH)
    for row, answer, reference in zip(found, *ENGLISH, strict=True):
        scores = scorer.score(reference, answer)
        assert list(row) == pytest.approx([100 * scores[name].fmeasure for name in ROUGE_TYPES])


def test_rouge_sees_chinese_which_rouge_score_alone_does_not() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1"])
    answers, references = CHINESE
    assert scorer.score(references[0], answers[0])["rouge1"].fmeasure == 0
    rouge = Rouge(references)
    assert rouge.own_words
    # of six characters, five are among the eight of the reference
    assert rouge.statistics(answers, references)[0, 0] == pytest.approx(100 * 2 * 5 / (6 + 8))
    assert "characters" in rouge.how


def test_words_of_other_scripts_stay_whole() -> None:
    pytest.importorskip("rouge_score")
    references = ["Привет мир, GPU 4090很好"]
    assert Rouge(references)._scorer._tokenizer.tokenize(references[0]) == ["привет", "мир", "gpu", "4090", "很", "好"]


@given(st.lists(st.tuples(st.floats(0, 50), st.integers(1, 30)), min_size=1, max_size=20), st.floats(0, 3))
def test_the_difference_of_the_losses_lies_in_its_interval(rows: list[tuple[float, int]], less: float) -> None:
    base = np.array([[nll, float(tokens)] for nll, tokens in rows])
    tuned = base - np.array([[less * tokens, 0.0] for _, tokens in rows])
    found = paired("loss", base, tuned, mean_loss, seed=1, how="", lower_is_better=True)
    assert found.difference == pytest.approx(-less, abs=1e-9)
    if found.low is None or found.high is None:
        assert len(rows) == 1
        assert found.is_clear is None
    else:  # every row improves equally, so there is nothing to doubt
        assert found.low == pytest.approx(-less, abs=1e-9)
        assert found.high == pytest.approx(-less, abs=1e-9)


def test_the_interval_covers_what_it_says() -> None:
    """In 80 draws of 80 rows with a true difference of 0.3 the interval holds it in about 95 %."""
    generator, held = np.random.default_rng(0), 0
    for number in range(80):
        base = np.column_stack([generator.normal(2, 1, 80), np.ones(80)])
        tuned = base + np.column_stack([generator.normal(0.3, 1, 80), np.zeros(80)])
        found = paired("loss", base, tuned, mean_loss, seed=number, how="")
        held += found.low is not None and found.high is not None and found.low <= 0.3 <= found.high
    assert 71 <= held <= 79


def test_one_seed_one_interval() -> None:
    base, tuned = np.random.default_rng(0).random((2, 30, 1)), np.random.default_rng(1).random((30, 1))
    first = [paired("x", base[0], tuned, lambda sums: float(sums[0]), seed=3, how="") for _ in range(2)]
    assert first[0] == first[1]
    assert first[0] != paired("x", base[0], tuned, lambda sums: float(sums[0]), seed=4, how="")


ROWS = [Row("instruction", f"Is {n} even?", "yes" if n % 2 == 0 else "no", label="yes" if n % 2 == 0 else "no") for n in range(5)]


def test_the_class_with_the_smallest_loss_is_chosen() -> None:
    classes = classes_of(ROWS, ())
    assert classes == ("no", "yes")
    losses = np.array([[1.0, 2.0], [0.5, 9.0]] * 5)  # "yes" every time, however long it is
    found = hits(losses, ROWS, classes)
    assert percent(found.sum(axis=0)) == most_frequent(ROWS) == 60
    assert [row.text for row in variants(ROWS[0], classes)] == ["no", "yes"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([Row("text", text="x")], "no classification"),
        ([Row("instruction", "a", "yes", label="yes")], "only one class"),
        ([Row("instruction", "a", str(n), label=str(n)) for n in range(60)], "60 classes"),
    ],
)
def test_what_is_no_classification_says_why(rows: list[Row], words: str) -> None:
    with pytest.raises(InputError, match=words):
        classes_of(rows, ())


def test_rows_are_drawn_once_and_in_order() -> None:
    rows = [Row("text", text=str(n)) for n in range(100)]
    some = drawn(rows, 10, 1)
    assert len(some) == 10 == len({row.text for row in some})
    assert [int(row.text) for row in some] == sorted(int(row.text) for row in some)
    assert some == drawn(rows, 10, 1) != drawn(rows, 10, 2)
    assert drawn(rows, 0, 1) == drawn(rows, 100, 1) == rows


def test_the_last_answer_is_the_reference() -> None:
    assert question(Row("instruction", "a", "b")) == ((("user", "a"),), "b")
    turns = (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    assert question(Row("messages", turns=turns)) == (turns[:3], "d")
    assert question(Row("messages", turns=turns[:3])) is None
    assert question(Row("text", text="a")) is None


def test_metrics_are_named_or_refused() -> None:
    assert named_metrics(None) == METRICS
    assert named_metrics("Loss, bleu,loss") == ("loss", "bleu")
    with pytest.raises(InputError, match="no metric 'blue'") as caught:
        named_metrics("blue")
    assert "bleu" in (caught.value.hint or "")
    with pytest.raises(InputError, match="no metric is named"):
        named_metrics(" ,")


def _evaluation(path: str, **changes: Any) -> Evaluation:
    measures = (
        Measure("loss", 2.0, 1.0, -1.0, -1.2, -0.8, True, 5, "nats per learned token"),
        Measure("bleu", 5.0, 4.0, -1.0, -2.0, -0.1, False, 5, "sacrebleu"),
    )
    data = {"path": path, "sha256": "0", "rows": 9, "evaluated": 5, "left_out": 1, "trained_on": True}
    settings = {"metrics": ["loss"], "seq_len": 64}
    samples = (Sample("q\x1b[2J", "r", "b\x07", "t"),)
    fields = {"created": "", "run": "run", "model": "m", "recipe": "LoRA", "device": "cpu", "data": data, "settings": settings}
    fields |= {"measures": measures, "skipped": {"accuracy": "no label"}, "samples": samples, "versions": {}}
    return Evaluation(**{**fields, **changes})


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/b/rows.v1.jsonl", "eval-rows.v1.json"),
        ("../..", "eval-data.json"),
        ("x\n/\x1b[2J.csv", "eval-2J.json"),
        ("数据.json", "eval-数据.json"),
    ],
)
def test_the_file_is_named_after_the_data(path: str, name: str, tmp_path: Path) -> None:
    written = write_evaluation(tmp_path, _evaluation(path))
    assert (written.parent, written.name) == (tmp_path, name)
    document = json.loads(written.read_text(encoding="utf-8"))
    assert document["schema"] == "ftadvise.eval/1"
    assert document["measures"][0]["difference"] == -1.0
    assert document == _evaluation(path).to_json()


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_view_shows_everything_and_no_escape_sequence(lang: str) -> None:
    from rich.console import Console

    console = Console(width=120, record=True, force_terminal=False)
    with console.capture() as shown:
        console.print(eval_view(_evaluation("rows\x1b[1m.jsonl"), lang))
    words = shown.get()
    assert "\x1b" not in words
    assert "\x07" not in words
    for part in ("2.000", "1.000", "-1.000", "-1.200 … -0.800", "BLEU", "no label", "5", "9"):
        assert part in words
    assert ("训练用过" if lang == "zh" else "learned these very rows") in words
    assert ("每个学习 token" if lang == "zh" else "nats per learned token") in words


def test_perplexity_of_a_hopeless_model_is_a_number() -> None:
    from ftadvise.runner.evaluate.run import _Done, _measures, _Task

    losses = np.array([[1e6, 1.0], [1e6, 1.0]])
    task = _Task(rows=[], tokens=[])
    measures = list(_measures(task, _Done(losses=losses), _Done(losses=losses), EvalSettings(metrics=("loss",)), 1))
    assert [measure.name for measure in measures] == ["loss", "perplexity"]
    assert all(math.isfinite(measure.tuned) for measure in measures)
