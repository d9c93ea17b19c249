"""The scripts of `ftadvise export` make the same tokens and labels of a row as `ftadvise run`."""

from __future__ import annotations

import ast
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftadvise.advisor.export.data import data_of
from ftadvise.advisor.export.script_blocks import encode, read_rows, reading_imports
from ftadvise.estimator.data_settings import DataSettings, Learn
from ftadvise.estimator.plan_file import PlanFile
from ftadvise.runner.data import load_rows
from ftadvise.runner.tokens import tokenize_rows

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is LoRA? 什么是 LoRA？"},
    {"role": "assistant", "content": " A small adapter.\n"},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "小适配器。"},
]
ROWS = {
    "instruction": [{"instruction": "Add", "input": "1 2", "output": "3"}, {"instruction": "Say 你好", "output": "你好 "}],
    "messages": [{"messages": MESSAGES}, {"messages": [*MESSAGES, {"role": "user", "content": "Thanks"}]}],
    "text": [{"text": "once upon a time"}],
}


@pytest.mark.parametrize("learn", ["answers", "all"])
@pytest.mark.parametrize("template", [True, False], ids=["own template", "base model"])
@pytest.mark.parametrize("shape", list(ROWS))
def test_a_script_learns_what_the_run_learns(
    demo_tokenizer: Any, make_plan: Callable[..., PlanFile], tmp_path: Path, shape: str, template: bool, learn: Learn
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[shape]), encoding="utf-8")
    settings = DataSettings(str(path), learn=learn)
    data = data_of(make_plan("org/model", settings))
    assert data.note is None
    script: dict[str, Any] = {}
    source = "\n".join([reading_imports(data), read_rows(data), encode(data)])
    exec(compile(ast.parse(source), "script", "exec"), script)  # noqa: S102 - what is tested
    tokenizer = copy.deepcopy(demo_tokenizer)
    if not template:
        tokenizer.chat_template = None
    exported = [script["encode"](row, tokenizer) for row in script["read_rows"](path)]
    ours, _ = tokenize_rows(load_rows(settings).rows, tokenizer, 512, learn=learn)
    assert exported == ours
