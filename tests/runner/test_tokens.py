"""Rows become tokens, and only what should be learned is learned."""

from __future__ import annotations

from typing import Any

import pytest

from ftadvise.profiles.errors import InputError
from ftadvise.runner.data import Row
from ftadvise.runner.tokens import IGNORED_LABEL, prompt_text, tokenize_rows

ROW = Row("instruction", prompt="What is LoRA? 什么是 LoRA？", text="A small adapter. 小适配器。")


class _NoTemplate:
    """The demo tokenizer as a base model has it: without a chat template."""

    chat_template = None

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.eos_token = tokenizer.eos_token

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._tokenizer(*args, **kwargs)


def _learned(tokenizer: Any, example: dict[str, list[int]]) -> str:
    return str(tokenizer.decode([label for label in example["labels"] if label != IGNORED_LABEL]))


def test_only_the_answer_is_learned_in_the_models_own_layout(demo_tokenizer: Any) -> None:
    (example,), stats = tokenize_rows([ROW], demo_tokenizer, 512)
    read = demo_tokenizer.decode(example["input_ids"])
    assert read.startswith(prompt_text(ROW.prompt or "", demo_tokenizer))
    assert _learned(demo_tokenizer, example) == f"{ROW.text}<|im_end|>\n"
    assert stats.max == stats.total == len(example["input_ids"]) == len(example["labels"])


def test_a_model_without_a_template_gets_the_plain_layout_and_its_end_token(demo_tokenizer: Any) -> None:
    (example,), _ = tokenize_rows([ROW], _NoTemplate(demo_tokenizer), 512)
    assert demo_tokenizer.decode(example["input_ids"]) == f"### Instruction:\n{ROW.prompt}\n\n### Response:\n{ROW.text}<|im_end|>"
    assert _learned(demo_tokenizer, example) == f"{ROW.text}<|im_end|>"


def test_of_text_and_conversations_every_token_is_learned(demo_tokenizer: Any) -> None:
    turns = (("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "See you"))
    examples, _ = tokenize_rows([Row("text", text="once upon"), Row("messages", turns=turns)], demo_tokenizer, 512)
    assert all(example["labels"] == example["input_ids"] for example in examples)
    assert demo_tokenizer.decode(examples[0]["input_ids"]) == "once upon<|im_end|>"
    assert "<|im_start|>assistant\nSee you<|im_end|>" in demo_tokenizer.decode(examples[1]["input_ids"])


def test_statistics_count_what_will_be_cut(demo_tokenizer: Any) -> None:
    rows = [Row("text", text="word " * count) for count in (1, 2, 50)]
    _, stats = tokenize_rows(rows, demo_tokenizer, 20)
    assert (stats.rows, stats.truncated) == (3, 1)
    assert stats.max > 50
    assert stats.mean == pytest.approx(stats.total / 3, abs=0.1)


def test_rows_whose_prompt_fills_the_length_are_left_out(demo_tokenizer: Any) -> None:
    long = Row("instruction", prompt="word " * 200, text="x")
    examples, stats = tokenize_rows([ROW, long], demo_tokenizer, 100)
    assert (len(examples), stats.rows) == (1, 2)


def test_data_that_tokenises_to_nothing_is_an_input_error(demo_tokenizer: Any) -> None:
    with pytest.raises(InputError, match="tokenises to nothing to learn: within seq_len 8") as caught:
        tokenize_rows([ROW], demo_tokenizer, 8)
    assert "raise seq_len" in str(caught.value.hint)
    tokenizer = _NoTemplate(demo_tokenizer)
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no row has two tokens"):
        tokenize_rows([Row("text", text="a")], tokenizer, 8)


def test_a_template_that_refuses_a_conversation_names_the_row(demo_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    strict = "{{ raise_exception('roles must alternate') }}"
    monkeypatch.setattr(demo_tokenizer, "chat_template", strict)
    with pytest.raises(InputError, match=r"data row 2: .*roles must alternate"):
        tokenize_rows([Row("text", text="fine here"), Row("messages", turns=(("assistant", "x"),))], demo_tokenizer, 64)
