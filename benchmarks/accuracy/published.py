"""The published tables, read as they are (benchmarks/data/README.md explains the columns)."""

from __future__ import annotations

import csv
from pathlib import Path

from benchmarks.accuracy.case import Row

DATA = Path(__file__).parents[1] / "data"


def read(name: str) -> list[Row]:
    """The rows of benchmarks/data/<name>, in order."""
    with (DATA / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
