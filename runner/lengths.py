"""How long the training examples are in tokens: with the model's tokenizer where it is at hand, else estimated from the text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ftadvise.estimator.lengths import LengthStats
from ftadvise.profiles.model_spec import ModelSpec
from ftadvise.runner.chat_template import use_template
from ftadvise.runner.data.rows import Row
from ftadvise.runner.light_tokenizer import LightTokenizer
from ftadvise.runner.rendered import Layout
from ftadvise.runner.tokens import LONGEST_TEXT, at_full_length

_ASCII_TOKENS, _OTHER_TOKENS = 0.3, 0.6
"""Tokens per character: "1 English character ~ 0.3 token, 1 Chinese character ~ 0.6 token" (DeepSeek's API documentation, "Token & Token
Usage"). OpenAI's "4 characters per token" would be 0.25 for English prose; code and lists need more, and too long is the safe side."""
_TURN_TOKENS = 5
"""What a chat template adds to each turn: begin mark, role, line break, end mark, line break (ChatML of Qwen and SmolLM2; Gemma; Llama 3
likewise)."""


def token_lengths(rows: Sequence[Row], model: ModelSpec, *, template: str | None = None) -> LengthStats:
    """Tokens of each example as the run will see it, before truncation; never downloads, never imports torch or transformers.

    Measured, chat template included, when the model's tokenizer.json lies in its folder, in the converted demo or GGUF model, or in the
    Hugging Face cache, and the `tokenizers` library is there (ftadvise[run]). Otherwise, or when the template cannot be rendered outside
    transformers, estimated: see `estimated_length`.
    """
    tokenizer = light_tokenizer(model)
    measured = _measured(rows, tokenizer, template) if tokenizer is not None else None
    return LengthStats.of(measured or [estimated_length(row) for row in rows], measured=measured is not None)


def estimated_length(row: Row) -> int:
    """Tokens of one example by its characters (0.3 per ASCII character, 0.6 per other character), rounded up, plus 5 for each turn of the
    chat template. A system prompt that the template may add by itself (20 to 30 tokens) is not in it."""
    turns = [content for _, content in row.dialogue if content] or [row.text]
    characters = sum(map(len, turns))
    ascii_only = sum(len(text.encode("ascii", "ignore")) for text in turns)
    return math.ceil(_ASCII_TOKENS * ascii_only + _OTHER_TOKENS * (characters - ascii_only)) + _TURN_TOKENS * len(turns)


def light_tokenizer(model: ModelSpec) -> LightTokenizer | None:
    """The model's tokenizer, where it lies on this disk and can be used without transformers; never downloads."""
    folder = _tokenizer_folder(model)
    try:
        return None if folder is None else LightTokenizer(folder)
    except Exception:  # noqa: BLE001 - missing libraries, and foreign files that may be broken in any way; the run will say how
        return None


def _measured(rows: Sequence[Row], tokenizer: LightTokenizer, template: str | None) -> list[int] | None:
    """Tokens of each row in no particular order, or None when they cannot be counted here."""
    try:
        use_template(tokenizer, template)
        layout = Layout(tokenizer)
        texts: dict[bool, list[str]] = {True: [], False: []}
        wholes: dict[bool, list[int]] = {True: [], False: []}
        for number, row in enumerate(rows, 1):
            text, special = layout.text(row, where=f"data row {number}")
            texts[special].append(text[:LONGEST_TEXT])
            wholes[special].append(len(text))
        return [
            at_full_length(length, len(text), whole)
            for special, each in texts.items()
            for length, text, whole in zip(tokenizer.count(each, special=special), each, wholes[special], strict=True)
        ]
    except Exception:  # noqa: BLE001 - foreign templates may fail in any way; the run will say how
        return None


def _tokenizer_folder(model: ModelSpec) -> Path | None:
    """A folder on this disk with the model's tokenizer.json."""
    from ftadvise.runner.demo_model import DEMO_MODEL_ID, demo_gguf_path
    from ftadvise.runner.gguf import gguf_conversion_folder

    source = Path(model.local_path).expanduser() if model.local_path else demo_gguf_path() if model.id == DEMO_MODEL_ID else None
    if source is None:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = try_to_load_from_cache(model.id, "tokenizer.json")
        except HFValidationError:
            return None
        return Path(cached).parent if isinstance(cached, str) else None
    try:
        folder = source if source.is_dir() else gguf_conversion_folder(source)
    except OSError:
        return None
    return folder if (folder / "tokenizer.json").is_file() else None
