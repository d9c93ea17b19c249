"""An evaluation with models: the trainer's loss, one base for both sides, and the command."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftadvise.profiles.errors import InputError
from ftadvise.runner.data.rows import Row, RowSet

pytest.importorskip("torch")
from made_runs import make_run, small_base

from ftadvise.cli import main
from ftadvise.runner.answer import answer
from ftadvise.runner.evaluate import losses as losses_module
from ftadvise.runner.evaluate.answers import greedy_answers
from ftadvise.runner.evaluate.evaluation import EvalSettings
from ftadvise.runner.evaluate.losses import mean_loss, row_losses
from ftadvise.runner.evaluate.rows import encoded, rows_to_evaluate
from ftadvise.runner.evaluate.run import evaluate_run
from ftadvise.runner.finished_run import FinishedRun, finished_run, load_base, load_run_tokenizer, load_tuned

ROWS = [
    Row("instruction", "Letters?", "abcdef"),
    Row("instruction", "More?", "yes"),
    Row("messages", turns=(("user", "Hi"), ("assistant", "ab"), ("user", "On"), ("assistant", "cd"))),
    Row("text", text="plain text"),
]
LABELLED = [Row("instruction", "Letters?", label, label=label) for label in ("abcdef", "qqq", "abcdef")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run that has learned an answer by heart."""
    folder = tmp_path_factory.mktemp("evaluate")
    return make_run(folder / "run", small_base(folder / "base"), ROWS[:1], steps=25, seq_len=96)


@pytest.fixture(scope="module")
def tuned(run: FinishedRun) -> Any:
    """Its model."""
    return load_tuned(run, "cpu")


def _row_set(rows: list[Row], labels: tuple[str, ...] = ()) -> RowSet:
    return RowSet("rows.jsonl", tuple(rows), sha256="1" * 64, labels=labels)


def _tokens(run: FinishedRun, rows: list[Row]) -> list[dict[str, list[int]]]:
    return [each for each in encoded(rows, run, load_run_tokenizer(run)) if each is not None]


def _settings(**changes: Any) -> EvalSettings:
    return EvalSettings(**{"max_rows": 0, "batch_size": 2, "max_new_tokens": 8, **changes})


def _measures(evaluation: Any) -> dict[str, Any]:
    return {measure.name: measure for measure in evaluation.measures}


@pytest.mark.train
def test_the_loss_is_the_trainer_s(run: FinishedRun, tuned: Any, tmp_path: Path) -> None:
    from ftadvise.runner.quiet import quiet_libraries
    from ftadvise.runner.trainer import build_trainer

    tokens = _tokens(run, ROWS)
    recipe = run.recipe.replace(micro_batch=len(tokens), optimizer="adamw_torch")
    model = load_tuned(run, "cpu")
    with quiet_libraries():
        trainer = build_trainer(model, load_run_tokenizer(run), tokens, recipe, "cpu", tmp_path, save=False, eval_rows=tokens)
        evaluated = trainer.evaluate()["eval_loss"]
    ours = mean_loss(row_losses(tuned, tokens, batch_size=3, compute_dtype="fp32").sum(axis=0))
    assert ours == pytest.approx(evaluated, abs=1e-5)


def test_the_loss_does_not_depend_on_the_batch(run: FinishedRun, tuned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    import torch

    tokens = _tokens(run, ROWS)
    whole = row_losses(tuned, tokens, batch_size=4, compute_dtype="fp32")
    for batch_size in (1, 3):
        np.testing.assert_allclose(row_losses(tuned, tokens, batch_size=batch_size, compute_dtype="fp32"), whole, rtol=1e-5)
    monkeypatch.setattr(losses_module, "_TOKENS_AT_ONCE", 2)
    np.testing.assert_allclose(row_losses(tuned, tokens, batch_size=4, compute_dtype="fp32"), whole, rtol=1e-5)
    with torch.no_grad():
        row = {key: torch.tensor([value]) for key, value in tokens[0].items()}
        assert mean_loss(whole[0]) == pytest.approx(float(tuned(**row).loss), abs=1e-5)
    assert [int(count) for count in whole[:, 1]] == [sum(label != -100 for label in each["labels"][1:]) for each in tokens]


@pytest.mark.parametrize("method", ["prompt", "prefix", "full"])
def test_methods_that_are_built_otherwise_are_measured_too(method: str, run: FinishedRun, tmp_path: Path) -> None:
    assert run.base is not None
    other = finished_run(make_run(tmp_path / "run", run.base, ROWS[:1], steps=2, method=method, seq_len=96).folder, with_base=True)
    evaluation = evaluate_run(other, _row_set(ROWS), ROWS, _settings(metrics=("loss", "bleu")), device="cpu")
    alone = mean_loss(row_losses(load_base(other, "cpu"), _tokens(other, ROWS), batch_size=4, compute_dtype="fp32").sum(axis=0))
    loss = _measures(evaluation)["loss"]
    assert loss.base == pytest.approx(alone, abs=1e-5)
    assert loss.tuned != loss.base


def test_what_was_learned_shows(run: FinishedRun) -> None:
    evaluation = evaluate_run(run, _row_set([ROWS[0]]), [ROWS[0]], _settings(), device="cpu")
    found = _measures(evaluation)
    assert found["loss"].tuned < 2 < 4 < found["loss"].base
    assert found["perplexity"].tuned == pytest.approx(math.exp(found["loss"].tuned))
    assert found["perplexity"].difference < -10
    assert evaluation.samples[0].tuned == evaluation.samples[0].reference == "abcdef" != evaluation.samples[0].base
    assert (found["rouge1"].tuned, found["rouge1"].rows) == (100, 1)
    assert evaluation.skipped == {"accuracy": "the data is no classification: its rows have no label"}


def test_batches_of_answers_are_the_single_ones(run: FinishedRun, tuned: Any) -> None:
    tokenizer = load_run_tokenizer(run)
    prompts = ["Letters?", "A much longer question, padded on the left?", "x"]
    together = greedy_answers(
        tuned, tokenizer, [[("user", each)] for each in prompts], batch_size=3, max_new_tokens=6, seq_len=96, compute_dtype="fp32"
    )
    assert together == [answer(tuned, tokenizer, each, max_new_tokens=6) for each in prompts]
    assert tokenizer.padding_side == "right"


def test_accuracy_is_of_the_likeliest_label(run: FinishedRun, tuned: Any) -> None:
    evaluation = evaluate_run(run, _row_set(LABELLED, ("abcdef", "qqq")), LABELLED, _settings(metrics=("accuracy",)), device="cpu")
    found = _measures(evaluation)["accuracy"]
    by_hand = 0
    for row in LABELLED:
        sums = [
            row_losses(tuned, _tokens(run, [dataclasses.replace(row, text=label)]), batch_size=1, compute_dtype="fp32")[0, 0]
            for label in ("abcdef", "qqq")
        ]
        by_hand += ("abcdef", "qqq")[sums.index(min(sums))] == row.label
    assert found.tuned == pytest.approx(100 * by_hand / 3)
    assert found.tuned == pytest.approx(200 / 3)  # it has learned to say "abcdef"
    assert "66.7" in found.how
    assert evaluation.samples == ()


def test_rows_without_room_are_counted_and_a_metric_asked_for_must_be_there(run: FinishedRun) -> None:
    rows = [*ROWS[:2], Row("instruction", "x" * 200, "never reached")]
    evaluation = evaluate_run(run, _row_set(rows), rows, _settings(metrics=("loss",)), device="cpu")
    assert (evaluation.data["evaluated"], evaluation.data["left_out"]) == (2, 1)
    with pytest.raises(InputError, match="accuracy cannot be measured"):
        evaluate_run(run, _row_set(rows), rows, _settings(), device="cpu", asked=("accuracy",))
    with pytest.raises(InputError, match="nothing to learn"):
        evaluate_run(run, _row_set(rows[2:]), rows[2:], _settings(), device="cpu")


def test_a_loss_that_is_no_number_is_said(run: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    from ftadvise.runner.evaluate import run as run_module

    monkeypatch.setattr(run_module, "row_losses", lambda *_, **__: np.array([[math.nan, 3.0]]))
    evaluation = evaluate_run(run, _row_set(ROWS[:1]), ROWS[:1], _settings(metrics=("loss",)), device="cpu")
    assert evaluation.measures == ()
    assert evaluation.skipped["loss"] == "it is not a number for base and tuned"
    json.dumps(evaluation.to_json(), allow_nan=False)


def test_a_missing_library_is_said_not_hidden(run: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "sacrebleu" else found(name, *rest))
    evaluation = evaluate_run(run, _row_set(ROWS[:1]), ROWS[:1], _settings(metrics=("bleu",)), device="cpu")
    assert "sacrebleu" in evaluation.skipped["bleu"]
    with pytest.raises(InputError, match="bleu cannot be measured"):
        evaluate_run(run, _row_set(ROWS[:1]), ROWS[:1], _settings(metrics=("bleu",)), device="cpu", asked=("bleu",))


@pytest.fixture
def ftadvise(capsys: pytest.CaptureFixture[str], run: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`ftadvise eval` on the run: (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "140")

    def call(*arguments: str) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["eval", str(run.folder), *arguments])
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    yield call
    for path in run.folder.glob("eval-*.json"):
        path.unlink()


def test_the_command(ftadvise: Any, run: FinishedRun, tmp_path: Path) -> None:
    data = tmp_path / "my rows.jsonl"
    data.write_text("".join(json.dumps({"instruction": row.prompt, "output": row.text}) + "\n" for row in ROWS[:2]), encoding="utf-8")
    code, out, _ = ftadvise("--data", str(data), "--json", "--max-new-tokens", "4")
    document = json.loads(out)
    assert (code, document["schema"]) == (0, "ftadvise.eval/1")
    assert document == json.loads((run.folder / "eval-my-rows.json").read_text(encoding="utf-8"))
    (run.folder / "eval-my-rows.json").unlink()
    code, out, _ = ftadvise("--data", str(data), "--metrics", "loss", "--no-save", "--lang", "zh")
    assert (code, "困惑度" in out, list(run.folder.glob("eval-*"))) == (0, True, [])


def test_wrong_use_of_the_command_is_one_line(ftadvise: Any, tmp_path: Path) -> None:
    for arguments, words in (
        (["--data", "x.jsonl", "--metrics", "blue"], "did you mean bleu"),
        (["--data", str(tmp_path / "gone.jsonl")], "gone.jsonl"),
        ([], "held no rows back"),
    ):
        code, out, err = ftadvise(*arguments)
        assert (code, out) == (2, "")
        assert words in err
        assert "Traceback" not in err


def test_the_rows_the_run_held_back_are_the_default(run: FinishedRun, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"instruction": f"q{n}", "output": f"a{n}"}) + "\n" for n in range(40)), encoding="utf-8")
    plan = run.report.plan | {"data": {"path": str(data), "eval_share": 0.25}}
    held = dataclasses.replace(run, report=dataclasses.replace(run.report, plan=plan))
    found, rows = rows_to_evaluate(held, None)
    assert 0 < len(rows) < 40
    assert set(rows) == set(found.eval_rows)
    assert not set(rows) & set(found.rows)
    assert len(rows_to_evaluate(held, str(data))[1]) == 40
