"""The words of the views, in English and Chinese, from texts.yaml."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from ftadvise.profiles.yaml_store import load_yaml


@functools.cache
def _texts() -> dict[str, dict[str, str]]:
    texts: dict[str, dict[str, str]] = load_yaml(Path(__file__).parent / "texts.yaml")
    return texts


def text(key: str, lang: str, **values: Any) -> str:
    """The words for `key` in `lang` ("en" or "zh"), with {placeholders} filled in."""
    return _texts()[key][lang].format(**values)
