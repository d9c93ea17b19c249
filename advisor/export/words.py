"""The sentences of the exporters, from messages.yaml."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from ftadvise.advisor.texts import Text
from ftadvise.profiles.yaml_store import load_yaml


@lru_cache(maxsize=1)
def templates() -> dict[str, dict[str, str]]:
    """Every sentence by id, `en` and `zh`, with {placeholders}."""
    loaded: dict[str, dict[str, str]] = load_yaml(Path(__file__).parent / "messages.yaml")
    return loaded


def say(message_id: str, **values: Any) -> Text:
    """One sentence with its values filled in; a value that is a `Text` goes in by language."""
    template = templates()[message_id]
    english = {key: value.en if isinstance(value, Text) else value for key, value in values.items()}
    chinese = {key: value.zh if isinstance(value, Text) else value for key, value in values.items()}
    return Text(template["en"].format(**english), template["zh"].format(**chinese))


def value_words(value: Any) -> str:
    """A recipe value as it stands in a sentence: "nf4", "q_proj, v_proj", "true"."""
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) or "nothing" if isinstance(value, tuple) else str(value)
