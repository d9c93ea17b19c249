"""The words of the views, in English and Chinese, from texts.yaml; those of the page from its own file."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from ftadvise.profiles.yaml_store import load_yaml

FILES = {"preview": "data_view.yaml", "page": "plan_page/texts.yaml", "panel": "../runner/panel.yaml", "run_page": "report_page/texts.yaml"}
"""Where the words of a view are that has a file of its own."""


@functools.cache
def texts_of(file: str) -> dict[str, dict[str, str]]:
    """Every text of one file of this folder."""
    texts: dict[str, dict[str, str]] = load_yaml(Path(__file__).parent / file)
    return texts


def text(key: str, lang: str, **values: Any) -> str:
    """The words for `key` in `lang` ("en" or "zh"), with {placeholders} filled in."""
    return texts_of(FILES.get(key.partition(".")[0], "texts.yaml"))[key][lang].format(**values)
