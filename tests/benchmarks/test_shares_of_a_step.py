"""The worked example of the speed model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import shares_of_a_step  # noqa: E402


def test_each_line_is_a_whole_step() -> None:
    head, _, *lines = shares_of_a_step.table().splitlines()
    assert len(lines) == len(shares_of_a_step.CASES)
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert len(cells) == head.count("|") - 1
        assert int(cells[1].replace(",", "")) > 0
        shares = [int(cell.removesuffix(" %")) for cell in cells[3:] if cell]
        assert sum(shares) == pytest.approx(100, abs=len(shares_of_a_step.CASES))  # rounded, and those below half a percent left out


def test_what_the_document_says_of_it() -> None:
    rows = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in shares_of_a_step.table().splitlines()}

    def percent(recipe: str, column: str) -> int:
        return int(rows[recipe][rows["recipe"].index(column)].removesuffix(" %") or 0)

    assert percent("LoRA, 8 x 2,048", "attention") >= 20
    assert percent("LoRA, 1 x 256", "launches") > 50
    assert percent("QLoRA, 1 x 256", "expanding") > 10 * percent("QLoRA, 8 x 2,048", "expanding")
    assert percent("full fine-tuning, 8 x 2,048", "adapters") == 0
