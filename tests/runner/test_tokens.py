"""Rows become tokens, and only what should be learned is learned."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ftadvise.profiles.errors import InputError
from ftadvise.runner.chat_template import builtin_templates
from ftadvise.runner.data import Row
from ftadvise.runner.tokens import IGNORED_LABEL, has_chat_template, prompt_text, tokenize_rows

ROW = Row("instruction", prompt="What is LoRA? 什么是 LoRA？", text="A small adapter. 小适配器。")
TURNS = (("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "See you"))
CHAT = Row("messages", turns=TURNS)


class _Slow:
    """The demo tokenizer as those without a fast implementation are: it does not say where a token comes from."""

    is_fast = False

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        assert not kwargs.get("return_offsets_mapping")
        return self._tokenizer(*args, **kwargs)


@pytest.fixture
def tokenizer(demo_tokenizer: Any) -> Any:
    """A copy, because tokenizing may give it another template."""
    return copy.deepcopy(demo_tokenizer)


@pytest.fixture
def base_tokenizer(tokenizer: Any) -> Any:
    """As a base model has it: without a chat template."""
    tokenizer.chat_template = None
    return tokenizer


def _learned(tokenizer: Any, example: dict[str, list[int]]) -> list[str]:
    """The runs of learned tokens, as text."""
    runs: list[list[int]] = [[]]
    for label in example["labels"]:
        if label != IGNORED_LABEL:
            runs[-1].append(label)
        elif runs[-1]:
            runs.append([])
    return [str(tokenizer.decode(run)) for run in runs if run]


def test_only_the_answer_is_learned_in_the_models_own_layout(tokenizer: Any) -> None:
    (example,), stats = tokenize_rows([ROW], tokenizer, 512)
    read = tokenizer.decode(example["input_ids"])
    assert read.startswith(prompt_text(ROW.prompt or "", tokenizer))
    assert _learned(tokenizer, example) == [f"{ROW.text}<|im_end|>"]
    assert stats.max == stats.total == len(example["input_ids"]) == len(example["labels"])
    assert stats.learned == sum(label != IGNORED_LABEL for label in example["labels"])


def test_every_answer_of_a_conversation_is_learned_with_its_end_mark(tokenizer: Any) -> None:
    (example,), _ = tokenize_rows([CHAT], tokenizer, 512)
    assert _learned(tokenizer, example) == ["Hello<|im_end|>", "See you<|im_end|>"]
    assert example["input_ids"] == tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in TURNS], tokenize=True, return_dict=False
    )
    (example,), _ = tokenize_rows([Row("messages", turns=TURNS, unlearned=(2,))], tokenizer, 512)
    assert _learned(tokenizer, example) == ["See you<|im_end|>"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Co", "Cc"]), min_size=1, max_size=30), min_size=2, max_size=8))
def test_what_is_learned_is_what_the_assistant_says(demo_tokenizer: Any, contents: list[str]) -> None:
    contents = [content.replace("<|", "< |") for content in contents]  # control tokens inside an answer are tokens
    turns = tuple(("assistant" if at % 2 else "user", content) for at, content in enumerate(contents))
    said = [content for role, content in turns if role == "assistant"]
    # a few characters are not in the demo tokenizer's vocabulary, not even as bytes
    assume(all(demo_tokenizer.decode(demo_tokenizer(content)["input_ids"]) == content for content in said))
    for tokenizer in (demo_tokenizer, _Slow(demo_tokenizer)):
        (example,), _ = tokenize_rows([Row("messages", turns=turns)], tokenizer, 4096)
        learned = "".join(_learned(demo_tokenizer, example))
        assert learned == "".join(f"{content}<|im_end|>" for content in said)


def test_a_base_model_gets_the_default_layout_and_keeps_it(base_tokenizer: Any) -> None:
    assert not has_chat_template(base_tokenizer)
    assert prompt_text("Hi", base_tokenizer) == "### Instruction:\nHi\n\n### Response:\n"
    (example, chat), _ = tokenize_rows([ROW, CHAT], base_tokenizer, 512)
    assert base_tokenizer.decode(example["input_ids"]) == f"### Instruction:\n{ROW.prompt}\n\n### Response:\n{ROW.text}<|im_end|>"
    assert _learned(base_tokenizer, example) == [f"{ROW.text}<|im_end|>"]
    assert base_tokenizer.decode(chat["input_ids"]) == (
        "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello<|im_end|>\n\n### Instruction:\nBye\n\n### Response:\nSee you<|im_end|>"
    )
    assert _learned(base_tokenizer, chat) == ["Hello<|im_end|>", "See you<|im_end|>"]
    assert prompt_text("Hi", base_tokenizer) == "### Instruction:\nHi\n\n### Response:\n"
    assert has_chat_template(base_tokenizer), "what is saved with the model answers as it has learned"


def test_the_begin_token_is_written_once_where_the_tokenizer_adds_one(base_tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    begin = base_tokenizer.convert_tokens_to_ids("<|im_start|>")
    base_tokenizer.bos_token = "<|im_start|>"  # noqa: S105 - a token of text
    base_tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", begin)])
    (example, text), _ = tokenize_rows([ROW, Row("text", text="once upon")], base_tokenizer, 512)
    assert example["input_ids"].count(begin) == text["input_ids"].count(begin) == 1
    assert example["input_ids"][0] == text["input_ids"][0] == begin
    assert example["labels"][0] == IGNORED_LABEL


@pytest.mark.parametrize("name", ["alpaca", "chatml", "plain"])
def test_built_in_templates(tokenizer: Any, name: str) -> None:
    examples, _ = tokenize_rows([ROW, CHAT], tokenizer, 512, template=name)
    assert [_learned(tokenizer, each) for each in examples] == [[f"{ROW.text}<|im_end|>"], ["Hello<|im_end|>", "See you<|im_end|>"]]
    text = tokenizer.decode(examples[1]["input_ids"])
    opening = prompt_text("Hi", tokenizer).partition("Hi")[2]
    assert f"{opening}Hello" in text, "the prompt before an answer is what the model is given when it is asked"


def test_a_template_whose_tokens_the_model_lacks_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InputError, match=r"needs the token <\|start_header_id\|>") as caught:
        tokenize_rows([ROW], tokenizer, 512, template="llama3")
    assert "alpaca" in (caught.value.hint or "")
    tokenizer.add_special_tokens({"additional_special_tokens": list(builtin_templates()["llama3"]["tokens"])})
    (example,), _ = tokenize_rows([CHAT], tokenizer, 512, template="llama3")
    assert _learned(tokenizer, example) == ["Hello<|eot_id|>", "See you<|eot_id|>"]
    assert tokenizer.eos_token == "<|eot_id|>", "generation stops where an answer ends"  # noqa: S105


def test_of_a_text_every_token_is_learned_and_of_all_when_asked_for(tokenizer: Any) -> None:
    (text,), _ = tokenize_rows([Row("text", text="once upon")], tokenizer, 512)
    assert text["labels"] == text["input_ids"]
    assert tokenizer.decode(text["input_ids"]) == "once upon<|im_end|>"
    examples, stats = tokenize_rows([ROW, CHAT], tokenizer, 512, learn="all")
    assert all(each["labels"] == each["input_ids"] for each in examples)
    assert stats.learned == stats.total - 2, "the first token of a row is never predicted"


def test_statistics_count_what_will_be_cut_and_name_it(tokenizer: Any) -> None:
    rows = [Row("text", text="word " * count, source=f"a.jsonl, line {count}") for count in (1, 2, 50)]
    _, stats = tokenize_rows(rows, tokenizer, 20)
    assert (stats.rows, stats.truncated, stats.truncated_rows) == (3, 1, ("a.jsonl, line 50",))
    assert stats.max > 50
    assert stats.mean == pytest.approx(stats.total / 3, abs=0.1)


def test_rows_whose_prompt_fills_the_length_are_left_out_and_named(tokenizer: Any) -> None:
    long = Row("instruction", prompt="word " * 200, text="x")
    examples, stats = tokenize_rows([ROW, long], tokenizer, 100)
    assert (len(examples), stats.rows, stats.unlearnable, stats.unlearnable_rows) == (1, 2, 1, ("data row 2",))


def test_data_that_tokenises_to_nothing_is_an_input_error(base_tokenizer: Any) -> None:
    with pytest.raises(InputError, match="tokenises to nothing to learn: within seq_len 8") as caught:
        tokenize_rows([ROW], base_tokenizer, 8)
    assert "raise seq_len" in str(caught.value.hint)
    base_tokenizer.eos_token = None
    with pytest.raises(InputError, match="no row has two tokens"):
        tokenize_rows([Row("text", text="a")], base_tokenizer, 8)


def test_a_template_that_refuses_a_conversation_names_the_row(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InputError, match=r"data row 2: .*roles must alternate"):
        tokenize_rows([Row("text", text="fine here"), Row("messages", turns=(("assistant", "x"),))], tokenizer, 64)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ m.content }}{% endfor %}"
    )
    with pytest.raises(InputError, match=r"b\.jsonl, line 3: .*refuses it: no") as caught:
        tokenize_rows([Row("messages", turns=TURNS, source="b.jsonl, line 3")], tokenizer, 64)
    assert "knows no system messages" in (caught.value.hint or "")


def test_of_a_text_of_megabytes_only_the_beginning_is_encoded(tokenizer: Any) -> None:
    (example,), stats = tokenize_rows([Row("text", text="word " * 600_000)], tokenizer, 64)
    assert len(example["input_ids"]) < 300_000
    assert stats.total == pytest.approx(600_000, rel=0.01)
    assert stats.truncated == 1
