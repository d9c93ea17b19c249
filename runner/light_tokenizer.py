"""A model's tokenizer without transformers: tokenizer.json through the `tokenizers` library, the chat template through Jinja's sandbox.

Both come with ftadvise[run]; they load in a tenth of a second, where transformers and torch take many.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ftadvise.runner.chat_template import compiled

_BATCH = 1000
"""Texts encoded at a time: enough to keep all cores busy, without holding every example's tokens."""


class LightTokenizer:
    """What `rendered.py` and `tokens.py` ask of a tokenizer, and counts of tokens. The model's own rules: begin token, chat template."""

    is_fast = True

    def __init__(self, folder: Path) -> None:
        """Read tokenizer.json, tokenizer_config.json and chat_template.jinja of a model folder.

        Raises:
            ImportError: the libraries are missing or too old.
            Exception: the files are missing or broken (`tokenizers` raises nothing narrower).
        """
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        config_file, template_file = folder / "tokenizer_config.json", folder / "chat_template.jinja"
        config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
        self.special_tokens_map = {
            name: _content(config[name]) for name in ("bos_token", "eos_token", "unk_token", "pad_token") if config.get(name)
        }
        self.chat_template = (
            template_file.read_text(encoding="utf-8") if template_file.is_file() else _template(config.get("chat_template"))
        )
        if self.chat_template:
            compiled(self.chat_template)  # a broken one is told here, not at the first row

    @property
    def eos_token(self) -> str | None:
        """What ends a text."""
        return self.special_tokens_map.get("eos_token")

    @eos_token.setter
    def eos_token(self, token: str) -> None:
        self.special_tokens_map["eos_token"] = token

    @property
    def bos_token(self) -> str | None:
        """What begins a text, for models that have such a token."""
        return self.special_tokens_map.get("bos_token")

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]:
        """The tokens that stand for themselves, by id; each has `content` and `special`."""
        decoder: Mapping[int, Any] = self._tokenizer.get_added_tokens_decoder()
        return decoder

    def apply_chat_template(
        self, messages: Sequence[dict[str, str]], *, tokenize: bool = False, add_generation_prompt: bool = False
    ) -> str:
        """The conversation in the model's own layout, as text.

        Raises:
            jinja2.TemplateError: the template refuses it.
        """
        assert self.chat_template is not None and not tokenize  # noqa: S101, PT018 - callers look at chat_template first
        return compiled(self.chat_template).render(messages, self.special_tokens_map, add_generation_prompt=add_generation_prompt)[0]

    def __call__(
        self, text: str | Sequence[str], *, add_special_tokens: bool, return_offsets_mapping: bool = False, verbose: bool = False
    ) -> dict[str, Any]:
        """`input_ids` of one text or of several, and `offset_mapping`, as the tokenizers of transformers give them."""
        several = not isinstance(text, str)
        encoded = self._tokenizer.encode_batch([text] if isinstance(text, str) else list(text), add_special_tokens=add_special_tokens)
        found: dict[str, Any] = {"input_ids": [each.ids for each in encoded]}
        if return_offsets_mapping:
            found["offset_mapping"] = [each.offsets for each in encoded]
        return found if several else {name: values[0] for name, values in found.items()}

    def count(self, texts: Sequence[str], *, special: bool) -> Iterator[int]:
        """Tokens of each text; `special` counts the begin and end tokens that the model adds by itself."""
        for start in range(0, len(texts), _BATCH):
            encoded = self._tokenizer.encode_batch_fast(texts[start : start + _BATCH], add_special_tokens=special)
            yield from (len(each) for each in encoded)


def _content(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)


def _template(value: Any) -> str | None:
    """The template itself, or the one called "default" of several."""
    if isinstance(value, list):
        value = next((each.get("template") for each in value if each.get("name") == "default"), None)
    return value if isinstance(value, str) else None
