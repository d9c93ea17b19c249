"""merge, chat and eval before any weights are read: their help, what they refuse, and that none of it loads a training library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftadvise.cli import main

HEAVY = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets", "sacrebleu", "rouge_score", "numpy")
COMMANDS = {"merge": [], "chat": ["--prompt", "x"], "eval": ["--data", "rows.jsonl"]}
_CODE = """
import json, sys
sys.argv = ["ftadvise", *{arguments!r}]
from ftadvise.cli import main
codes = []
for arguments in {calls!r}:
    try:
        main(arguments)
    except SystemExit as ended:
        codes.append(ended.code or 0)
print()
print(json.dumps([codes, [name for name in {heavy!r} if name in sys.modules]]))
"""


def test_help_and_refusals_load_no_training_library(tmp_path: Path) -> None:
    calls = [[name, "--help"] for name in COMMANDS] + [[name, "gone", *more] for name, more in COMMANDS.items()]
    code = _CODE.format(arguments=["chat"], calls=calls, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    codes, imported = json.loads(done.stdout.splitlines()[-1])
    assert (codes, imported) == ([0, 0, 0, 2, 2, 2], []), done.stderr


@pytest.fixture
def ftadvise(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command; returns (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return call


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(("lang", "words"), [("en", "has not finished"), ("zh", "尚未完成")])
def test_an_unfinished_run_is_one_line(name: str, lang: str, words: str, ftadvise: Any, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    code, out, err = ftadvise(name, str(tmp_path), *COMMANDS[name], "--lang", lang)
    assert (code, out) == (2, "")
    assert words in err
    assert "ftadvise run" in err


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": "ftadvise.report/1"}', '{"schema": "another/1"}', "\x00" * 50])
def test_a_broken_report_is_one_line(name: str, content: str, ftadvise: Any, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(content, encoding="utf-8")
    code, out, err = ftadvise(name, str(tmp_path), *COMMANDS[name])
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["merge", "run", "--dtype", "int4"],
        ["chat", "run", "--temperature", "-1"],
        ["chat", "run", "--max-new-tokens", "0"],
        ["eval", "run", "--batch-size", "0"],
        ["eval", "run", "--metrics", "blue"],
        ["merge"],
    ],
    ids=" ".join,
)
def test_wrong_options_are_refused_before_anything_is_read(arguments: list[str], ftadvise: Any) -> None:
    code, out, err = ftadvise(*arguments)
    assert (code, out) == (2, "")
    assert "error: " in err
