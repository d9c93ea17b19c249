"""Golden plans: the whole answer for well-known pairs, reviewed by eye.

Set FTADVISE_UPDATE_GOLDEN=1 to write them anew, then read the diff.
"""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

import ftadvise
from ftadvise.rendering.plan_view import plan_view

GOLDEN = Path(__file__).parent / "golden"
PAIRS = [
    ("Qwen-7B", "RTX 4090", "en"),
    ("Qwen-7B", "RTX 3060 12GB", "en"),
    ("Qwen-7B", "RTX 3060 12GB", "zh"),
    ("Qwen-7B", "A100-80GB", "en"),
    ("Baichuan2-13B-Base", "RTX 4090", "en"),
    ("Llama-2-70b-hf", "A100-80GB", "en"),
    ("SmolLM2-135M-Instruct", "RTX 3060 12GB", "en"),
    ("Llama-3.1-8B", "T4", "en"),
]


@pytest.mark.parametrize(("model", "gpu", "lang"), PAIRS)
def test_plan_is_as_reviewed(model: str, gpu: str, lang: str) -> None:
    console = Console(file=StringIO(), width=100, no_color=True, highlight=False)
    console.print(plan_view(ftadvise.plan(model, gpu=gpu), lang))
    text = "".join(line.rstrip() + "\n" for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]
    path = GOLDEN / f"{model}-{gpu}-{lang}.txt".replace(" ", "_")
    if os.environ.get("FTADVISE_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"{path.name} changed: review with FTADVISE_UPDATE_GOLDEN=1 and git diff"
