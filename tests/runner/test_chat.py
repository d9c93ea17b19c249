"""Conversations with a tiny model: laid out by its template, streamed, stopped, and remembered."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ftadvise.profiles.errors import InputError

pytest.importorskip("torch")
from made_runs import make_run, small_base

from ftadvise.cli import main
from ftadvise.runner.answer import answer, generation_config, open_text, stop_tokens
from ftadvise.runner.chat import Chat, open_chats
from ftadvise.runner.data.rows import Row
from ftadvise.runner.finished_run import FinishedRun, load_run_tokenizer, load_tuned

ROWS = [Row("instruction", "Letters?", "abcdef")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run that has learned one answer by heart."""
    folder = tmp_path_factory.mktemp("chat")
    return make_run(folder / "run", small_base(folder / "base"), ROWS, steps=25)


@pytest.fixture(scope="module")
def model(run: FinishedRun) -> Any:
    """Its trained model."""
    return load_tuned(run, "cpu")


@pytest.fixture(scope="module")
def tokenizer(run: FinishedRun) -> Any:
    """Its tokenizer."""
    return load_run_tokenizer(run)


def test_a_streamed_answer_is_the_greedy_one(model: Any, tokenizer: Any) -> None:
    chat = Chat(model, tokenizer, max_new_tokens=12)
    pieces = list(chat.reply("Letters?"))
    assert "".join(pieces).strip() == answer(model, tokenizer, "Letters?", max_new_tokens=12) == "abcdef"
    assert len(pieces) > 1
    assert chat.turns == [("user", "Letters?"), ("assistant", "abcdef")]


def test_the_base_answers_as_if_there_were_no_adapter(run: FinishedRun, model: Any, tokenizer: Any) -> None:
    chats = open_chats(run, "cpu", base=True, tuned=True, max_new_tokens=8)
    alone = open_chats(run, "cpu", base=True, tuned=False, max_new_tokens=8)
    assert list(chats) == ["base", "tuned"]
    said = {name: "".join(chat.reply("Letters?")) for name, chat in chats.items()}
    assert said["base"] == "".join(alone["base"].reply("Letters?")) != said["tuned"]
    assert said["tuned"].strip() == "abcdef"


def test_history_goes_into_the_template_and_reset_keeps_the_system_prompt(model: Any, tokenizer: Any) -> None:
    chat = Chat(model, tokenizer, system="Be brief.", max_new_tokens=4)
    list(chat.reply("Letters?"))
    list(chat.reply("Again."))
    assert [role for role, _ in chat.turns] == ["system", "user", "assistant", "user", "assistant"]
    text = open_text(chat.turns[:-1], tokenizer)
    assert text.index("Be brief.") < text.index("Letters?") < text.index("Again.")
    assert text.endswith("<|im_start|>assistant\n")
    chat.reset()
    assert chat.turns == [("system", "Be brief.")]


def test_closing_an_answer_stops_the_model(model: Any, tokenizer: Any) -> None:
    chat = Chat(model, tokenizer, max_new_tokens=150, temperature=1.0)
    before = threading.active_count()
    pieces = chat.reply("Tell me a long story.")
    first = next(pieces)
    pieces.close()
    assert threading.active_count() == before
    assert chat.turns[-1] == ("assistant", first.strip())


def test_sampling_is_repeatable_and_differs_from_greedy(model: Any, tokenizer: Any) -> None:
    def said(temperature: float) -> str:
        return "".join(Chat(model, tokenizer, max_new_tokens=20, temperature=temperature).reply("Tell me."))

    assert said(5.0) == said(5.0) != said(0.0)


def test_the_earliest_exchange_is_forgotten_when_the_model_reads_no_more(model: Any, tokenizer: Any) -> None:
    chat = Chat(model, tokenizer, system="Be brief.", max_new_tokens=4)  # the tiny model reads 256 tokens
    for word in ("one", "two", "three"):
        list(chat.reply(f"{word} " * 20))
    kept = [content for role, content in chat.turns if role == "user"]
    assert chat.turns[0] == ("system", "Be brief.")
    assert kept[-1].startswith("three")
    assert not any(content.startswith("one") for content in kept)
    with pytest.raises(InputError, match="tokens"):
        list(chat.reply("word " * 100))


def test_an_error_while_answering_reaches_the_caller(model: Any, tokenizer: Any) -> None:
    def broken() -> Any:
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        list(Chat(model, tokenizer, around=broken).reply("Letters?"))


def test_a_model_without_a_template_gets_the_default_one(tokenizer: Any) -> None:
    plain = copy.copy(tokenizer)
    plain.chat_template = None
    text = open_text([("user", "One?"), ("assistant", "Yes."), ("user", "Two?")], plain)
    assert text.index("One?") < text.index("Yes.") < text.index("Two?")
    assert text.rstrip().endswith("### Response:")


def test_a_template_that_refuses_is_one_line(tokenizer: Any) -> None:
    refusing = copy.copy(tokenizer)
    refusing.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(InputError, match="System role not supported"):
        open_text([("system", "x"), ("user", "y")], refusing)


def test_answers_end_at_every_end_token(model: Any, tokenizer: Any) -> None:
    stub = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[7, 8]))
    assert stop_tokens(stub, tokenizer) == [tokenizer.eos_token_id, 7, 8]
    assert generation_config(stub, tokenizer, 5).do_sample is False


@pytest.fixture
def ftadvise(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """`ftadvise(*arguments, typed=[...])`: on a terminal where there are lines to type; returns (exit code, stdout, stderr)."""

    def call(*arguments: str, typed: list[Any] | None = None) -> tuple[Any, str, str]:
        monkeypatch.setattr("sys.stdin.isatty", lambda: typed is not None, raising=False)
        lines = iter(typed or [])

        def typed_line(_prompt: str) -> str:
            line = next(lines, EOFError())
            if isinstance(line, BaseException):
                raise line
            return str(line)

        monkeypatch.setattr("builtins.input", typed_line)
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return call


def test_one_answer_for_a_prompt(ftadvise: Any, run: FinishedRun) -> None:
    code, out, err = ftadvise("chat", str(run.folder), "--prompt", "Letters?", "--max-new-tokens", "10")
    assert (code, out.strip()) == (0, "abcdef")
    assert "LoRA" in err


def test_a_conversation_on_a_terminal(ftadvise: Any, run: FinishedRun) -> None:
    typed = ["Letters?", "/reset", "/what", "", KeyboardInterrupt(), "Letters?", "word " * 100, "/quit", "never read"]
    code, out, err = ftadvise("chat", str(run.folder), "--max-new-tokens", "10", typed=typed)
    assert code == 0
    assert [line.strip() for line in out.splitlines() if line.strip()] == ["abcdef", "abcdef"]
    assert "shorten it" in err


def test_compare_shows_both_and_ctrl_d_ends(ftadvise: Any, run: FinishedRun) -> None:
    code, out, _ = ftadvise("chat", str(run.folder), "--compare", "--lang", "zh", "--max-new-tokens", "8", typed=["Letters?"])
    assert code == 0
    assert out.index("底座") < out.index("abcdef")


def test_ctrl_c_stops_the_answer_and_not_the_conversation(ftadvise: Any, run: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    said = []

    def reply(self: Chat, prompt: str) -> Any:
        said.append(prompt)
        yield "begun\x1b[2J"
        if prompt == "first":
            raise KeyboardInterrupt

    monkeypatch.setattr(Chat, "reply", reply)
    code, out, _ = ftadvise("chat", str(run.folder), typed=["first", "second"])
    assert (code, said) == (0, ["first", "second"])
    assert "\x1b" not in out
    assert out.count("begun") == 2


def test_wrong_usage_is_one_line(ftadvise: Any, run: FinishedRun, tmp_path: Path) -> None:
    assert ftadvise("chat", str(run.folder), "--base", "--compare")[0] == 2
    assert ftadvise("chat", str(run.folder), "--prompt", " ")[0] == 2
    code, _, err = ftadvise("chat", str(tmp_path / "gone"), "--prompt", "x")
    assert code == 2
    assert "there is no run" in err
