"""Rows as tokens: what the model reads, and which tokens it learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ftadvise.profiles.errors import InputError
from ftadvise.runner.data import Row

IGNORED_LABEL = -100
"""The label of a token that is read but not learned (the value that PyTorch's cross entropy skips)."""


@dataclass(frozen=True, slots=True)
class TokenStats:
    """Lengths in tokens of the rows before truncation; `truncated` rows are longer than the recipe's seq_len."""

    rows: int
    mean: float
    p95: int
    max: int
    total: int
    truncated: int


def tokenize_rows(rows: Sequence[Row], tokenizer: Any, seq_len: int) -> tuple[list[dict[str, list[int]]], TokenStats]:
    """Rows as `input_ids` and `labels`, not yet truncated (the trainer does that), and their length statistics.

    Of an instruction row only the answer is learned (prompt tokens carry `IGNORED_LABEL`); of `messages` and `text` every token.
    A model without a chat template gets the plain "### Instruction" layout and its end-of-sequence token.

    Raises:
        InputError: no row has a token to learn within `seq_len`.
    """
    encoded = [_encode(row, tokenizer, number) for number, row in enumerate(rows, 1)]
    lengths = sorted(len(example["input_ids"]) for example in encoded)
    # the first token is never predicted, so a row whose only label is there teaches nothing
    learnable = [e for e in encoded if any(label != IGNORED_LABEL for label in e["labels"][1:seq_len])]
    if not learnable:
        longest = lengths[-1]
        if longest < 2:
            raise InputError("the data tokenises to nothing: no row has two tokens")
        raise InputError(
            f"the data tokenises to nothing to learn: within seq_len {seq_len} every row is still in its prompt",
            hint=f"raise seq_len; the longest row has {longest} tokens",
        )
    stats = TokenStats(
        rows=len(encoded),
        mean=round(sum(lengths) / len(lengths), 1),
        p95=lengths[min(len(lengths) - 1, int(0.95 * len(lengths)))],
        max=lengths[-1],
        total=sum(lengths),
        truncated=sum(length > seq_len for length in lengths),
    )
    return learnable, stats


def prompt_text(prompt: str, tokenizer: Any) -> str:
    """The prompt as the model sees it before it answers."""
    if has_chat_template(tokenizer):
        return _render(tokenizer, [("user", prompt)], where="the prompt", open_answer=True)
    return f"### Instruction:\n{prompt}\n\n### Response:\n"


def row_text(row: Row, tokenizer: Any, *, where: str) -> tuple[str, bool]:
    """The whole example as the model reads it, and whether the tokenizer adds its own begin token (a chat template writes its own).

    Raises:
        InputError: the chat template refuses the row; names `where`.
    """
    chat, end = has_chat_template(tokenizer), tokenizer.eos_token or ""
    if row.shape == "text":
        return f"{row.text}{end}", True
    if chat:
        turns = row.turns if row.shape == "messages" else (("user", row.prompt or ""), ("assistant", row.text))
        return _render(tokenizer, turns, where=where), False
    if row.shape == "messages":
        return "\n\n".join(f"### {role}:\n{content}" for role, content in row.turns) + end, True
    return f"{prompt_text(row.prompt or '', tokenizer)}{row.text}{end}", True


def has_chat_template(tokenizer: Any) -> bool:
    """Whether the tokenizer knows how its model wants a conversation written."""
    return bool(getattr(tokenizer, "chat_template", None))


def _encode(row: Row, tokenizer: Any, number: int) -> dict[str, list[int]]:
    text, special = row_text(row, tokenizer, where=f"data row {number}")
    ids = _ids(tokenizer, text, special=special)
    if row.shape != "instruction":
        return {"input_ids": ids, "labels": list(ids)}
    prompt_ids = _ids(tokenizer, prompt_text(row.prompt or "", tokenizer), special=special)
    # tokens may merge across the boundary: what is learned starts where the two first differ
    shared = next((i for i, (a, b) in enumerate(zip(prompt_ids, ids, strict=False)) if a != b), min(len(prompt_ids), len(ids)))
    return {"input_ids": ids, "labels": [IGNORED_LABEL] * shared + ids[shared:]}


def _render(tokenizer: Any, turns: Sequence[tuple[str, str]], *, where: str, open_answer: bool = False) -> str:
    """The conversation in the model's own layout."""
    from jinja2.exceptions import TemplateError

    messages = [{"role": role, "content": content} for role, content in turns]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_answer))
    except TemplateError as error:
        raise InputError(f"{where}: the model's chat template refuses it: {error}", hint="check the order of the roles") from None


def _ids(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    """Token ids; `special` adds the model's own begin token (a chat template writes its own)."""
    return list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])
