"""Answers of a model: how a conversation is laid out for it, when it stops, and one greedy answer that shows what training changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ftadvise.runner.chat_template import use_template
from ftadvise.runner.data.rows import Turn
from ftadvise.runner.quiet import ignoring
from ftadvise.runner.rendered import Layout

GENERATION_WARNINGS = (r"Position ids are not supported for parameter efficient tuning",)
"""PEFT's, of prompt tuning: transformers gives positions that it counts itself. Nothing the user could do anything about."""


def answer(model: Any, tokenizer: Any, prompt: str, *, max_new_tokens: int = 60) -> str:
    """The model's greedy answer to `prompt` in its chat layout, at most `max_new_tokens` tokens."""
    import torch

    inputs = open_inputs([("user", prompt)], tokenizer).to(model.device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), ignoring(*GENERATION_WARNINGS):
            tokens = model.generate(**inputs, generation_config=generation_config(model, tokenizer, max_new_tokens))
    finally:
        model.train(was_training)
    return decoded(tokenizer, tokens[0, inputs["input_ids"].shape[1] :])


def decoded(tokenizer: Any, tokens: Any) -> str:
    """The text of generated tokens, without special tokens and the white space around it."""
    return str(tokenizer.decode(tokens, skip_special_tokens=True)).strip()


def open_inputs(turns: Sequence[Turn], tokenizer: Any) -> Any:
    """`input_ids` and `attention_mask`, each 1 x tokens, of a conversation whose next turn is the model's.

    Raises:
        InputError: the chat template refuses the conversation.
    """
    # a chat template writes its own begin token
    return tokenizer(open_text(turns, tokenizer), return_tensors="pt", add_special_tokens=False, return_token_type_ids=False)


def open_text(turns: Sequence[Turn], tokenizer: Any) -> str:
    """The conversation as the model reads it before it answers, in the tokenizer's chat template; one without gets the default.

    Raises:
        InputError: the chat template refuses the conversation.
    """
    use_template(tokenizer, None)
    return Layout(tokenizer).conversation(turns, where="the conversation", open_answer=True)


def generation_config(model: Any, tokenizer: Any, max_new_tokens: int, *, temperature: float = 0.0) -> Any:
    """Greedy, or sampling at a temperature above 0; ends at each token that ends an answer. The checkpoint's own settings do not count."""
    from transformers import GenerationConfig

    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature > 0 else {"do_sample": False}
    ends = stop_tokens(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0] if ends else None
    return GenerationConfig(max_new_tokens=max_new_tokens, eos_token_id=ends or None, pad_token_id=pad, use_cache=True, **sampling)


def stop_tokens(model: Any, tokenizer: Any) -> list[int]:
    """The tokenizer's end token and those that the checkpoint says end an answer (chat models have one for a turn and one for a text)."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    named = own if isinstance(own, list) else [own]
    return list(dict.fromkeys(token for token in (tokenizer.eos_token_id, *named) if isinstance(token, int)))
