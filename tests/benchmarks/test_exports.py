"""Exports through the parsers of the packages that ftadvise[run] brings; `make check-exports` asks the others too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.exports import fields  # noqa: E402
from benchmarks.exports.__main__ import write_plans  # noqa: E402
from benchmarks.exports.recipes import FULL, QLORA, VALUES, every_recipe  # noqa: E402
from ftadvise.advisor.export import TARGETS  # noqa: E402


def test_trl_and_accelerate_accept_what_is_exported_for_them(tmp_path: Path) -> None:
    """And refuse a key that does not exist: a parser that refuses nothing proves nothing."""
    pytest.importorskip("trl", minversion="1.15")
    pytest.importorskip("accelerate")
    recipes = [*every_recipe()[::6], *(each.replace(sharding=way) for each in (QLORA, FULL) for way in ("ddp", "zero2", "zero3", "fsdp"))]
    write_plans("trl", tmp_path, recipes)
    spoiled = sorted(tmp_path.iterdir())[0]
    with (spoiled / "trl_sft.yaml").open("a", encoding="utf-8") as file:
        file.write("lora_rank_of_the_moon: 3\n")
    command = [sys.executable, str(ROOT / "benchmarks" / "exports" / "parse.py"), "trl", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    answers = json.loads(done.stdout.splitlines()[-1])
    assert len(answers) == len(recipes)
    assert "lora_rank_of_the_moon" in answers.pop(spoiled.name)
    assert {plan: answer for plan, answer in answers.items() if answer is not None} == {}


def test_the_tables_of_the_documentation_have_every_field_and_target() -> None:
    matrix = fields.matrix().splitlines()
    assert len(matrix) == 2 + len(VALUES)
    assert all(f"| {name} " in matrix[0] for name in TARGETS)
    rank = next(line for line in fields.keys().splitlines() if line.startswith("| `rank`"))
    assert rank == "| `rank` | `lora_rank` | `lora_r` | `lora_r` |"
    loss = next(line for line in matrix if line.startswith("| `loss`"))
    assert "only fused" in loss
