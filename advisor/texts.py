"""What the advisor says, in English and Chinese."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ftadvise.profiles.yaml_store import load_yaml

MESSAGE_PREFIX = "planner."


@dataclass(frozen=True, slots=True)
class Text:
    """One sentence in both languages."""

    en: str
    zh: str

    def in_language(self, language: str) -> str:
        """The sentence in `language`: "zh" (or "zh_CN", ...) gives Chinese, anything else English."""
        return self.zh if language.lower().startswith("zh") else self.en


@lru_cache(maxsize=1)
def message_templates() -> dict[str, dict[str, str]]:
    """The planner's own sentences by id: `en` and `zh` with {placeholders}, and `about`, why the planner says it."""
    templates: dict[str, dict[str, str]] = load_yaml(Path(__file__).parent / "messages.yaml")
    return templates


def message(message_id: str, **values: Any) -> Text:
    """The planner's sentence `planner.<message_id>` with its values filled in; a `Text` value goes in by language."""
    template = message_templates()[MESSAGE_PREFIX + message_id]
    english = {key: value.en if isinstance(value, Text) else value for key, value in values.items()}
    chinese = {key: value.zh if isinstance(value, Text) else value for key, value in values.items()}
    return Text(template["en"].format(**english), template["zh"].format(**chinese))


def gib(num_bytes: float) -> str:
    """Bytes as "21.4 GiB" (GiB = 2^30 bytes), for sentences."""
    return f"{num_bytes / (1 << 30):.1f} GiB"


def duration_words(seconds: float) -> str:
    """A duration for a sentence: "0.4 s", "12 s", "3.5 min", "2.1 h"."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def rate(tokens_per_second: float) -> str:
    """Tokens per second with two or more significant digits: "2,140", "0.13"."""
    return f"{tokens_per_second:,.0f}" if tokens_per_second >= 10 else f"{tokens_per_second:.2g}"
