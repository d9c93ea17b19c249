"""Greedy answers to many prompts, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ftadvise.runner.answer import GENERATION_WARNINGS, decoded, generation_config, open_text
from ftadvise.runner.data.rows import Turn
from ftadvise.runner.evaluate.losses import computing
from ftadvise.runner.quiet import ignoring


def greedy_answers(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[Turn]], *, batch_size: int, max_new_tokens: int, seq_len: int, compute_dtype: str
) -> list[str]:
    """The answer to each conversation. Prompts longer than `seq_len` lose their beginning, so that the question stays.

    Shorter prompts of a batch are padded on the left. Prompt and prefix tuning put their vectors before the padding, farther from the text
    than they were in training: use a batch size of 1 for these.
    """
    import torch

    settings = generation_config(model, tokenizer, max_new_tokens)
    texts = [open_text(turns, tokenizer) for turns in prompts]
    by_length = sorted(range(len(texts)), key=lambda number: len(texts[number]), reverse=True)
    answers = [""] * len(texts)
    side = tokenizer.padding_side, tokenizer.truncation_side
    tokenizer.padding_side = tokenizer.truncation_side = "left"  # answers begin where the prompt ends
    try:
        with torch.no_grad(), computing(model.device.type, compute_dtype), ignoring(*GENERATION_WARNINGS):
            for start in range(0, len(by_length), batch_size):
                numbers = by_length[start : start + batch_size]
                inputs = tokenizer(
                    [texts[number] for number in numbers],
                    return_tensors="pt",
                    padding=True,
                    truncation=True,
                    max_length=seq_len,
                    add_special_tokens=False,  # the template writes its own begin token
                    return_token_type_ids=False,
                ).to(model.device)
                tokens = model.generate(**inputs, generation_config=settings)[:, inputs["input_ids"].shape[1] :]
                for number, row in zip(numbers, tokens, strict=True):
                    answers[number] = decoded(tokenizer, row)
    finally:
        tokenizer.padding_side, tokenizer.truncation_side = side
    return answers
