"""Plan before torch: everything but `run` works without the training libraries, and never imports them when they are there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets", "pandas", "pyarrow")
_CODE = """
import sys
sys.argv = ["ftadvise", *{arguments!r}]
from ftadvise.cli import main
code = 0
try:
    main()
except SystemExit as exit:
    code = exit.code
print()
print(__import__("json").dumps([code, [name for name in {heavy!r} if name in sys.modules]]))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["plan", "--model", "Qwen-7B", "--gpu", "RTX 4090"],
        ["plan", "--gpu", "cpu", "--json"],
        ["plan"],
        ["estimate", "--model", "Qwen-7B", "--gpu", "A100-80GB", "--method", "qlora"],
        ["gpus", "4090"],
        ["models", "qwen"],
        ["rules"],
        ["explain", "gpu.mid_low"],
        ["probe"],
        ["calibrate", "--show"],
        ["run", "--help"],
        ["data", str(Path(__file__).parents[2] / "runner" / "demo_data.jsonl")],
        ["deploy", "--help"],
    ],
    ids=" ".join,
)
def test_a_command_that_does_not_train_imports_no_training_library(arguments: list[str], tmp_path: Path) -> None:
    code = _CODE.format(arguments=arguments, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    exit_code, imported = json.loads(done.stdout.splitlines()[-1])
    assert (exit_code, imported) == (0, []), done.stderr
