"""A model's tokenizer without transformers, to count tokens: tokenizer.json through the `tokenizers` library, the chat template through
Jinja's sandbox. Both come with ftadvise[run]; they load in a tenth of a second, where transformers and torch take many."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_BATCH = 1000
"""Texts encoded at a time: enough to keep all cores busy, without holding every example's tokens."""


class LightTokenizer:
    """What `tokens.row_text` asks of a tokenizer, and counts of tokens. The model's own rules: begin token, chat template."""

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
        self._special = {name: _content(config[name]) for name in ("bos_token", "eos_token", "unk_token", "pad_token") if config.get(name)}
        self.eos_token = self._special.get("eos_token")
        self.chat_template = (
            template_file.read_text(encoding="utf-8") if template_file.is_file() else _template(config.get("chat_template"))
        )
        self._compiled = _compile(self.chat_template) if self.chat_template else None

    def apply_chat_template(
        self, messages: Sequence[dict[str, str]], *, tokenize: bool = False, add_generation_prompt: bool = False
    ) -> str:
        """The conversation in the model's own layout, as text.

        Raises:
            jinja2.TemplateError: the template refuses it.
        """
        assert self._compiled is not None and not tokenize  # noqa: S101, PT018 - callers look at chat_template first
        return str(self._compiled.render(messages=messages, add_generation_prompt=add_generation_prompt, **self._special))

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


def _compile(template: str) -> Any:
    """The template in the sandbox and with the functions that transformers gives it (utils/chat_template_utils.py, 5.23).

    Templates are foreign code; Jinja before 3.1.6 has known ways out of its sandbox.
    """
    import datetime

    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if tuple(int(part) for part in jinja2.__version__.split(".")[:3]) < (3, 1, 6):
        raise ImportError("chat templates need jinja2 >= 3.1.6")

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda layout: datetime.datetime.now().strftime(layout)
    return environment.from_string(template)
