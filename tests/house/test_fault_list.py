"""docs/faults.md: every test that it names exists, and no row goes without one."""

from __future__ import annotations

import re

from house import ROOT

_NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def test_every_fault_has_tests_and_every_test_exists() -> None:
    files = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}
    lines = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith(("| fault", "|--"))]
    assert len(rows) > 25
    missing = []
    for row in rows:
        named = _NAMED.findall(row)
        assert named, row
        missing += [
            f"{file}::{name}" for file, name in named if file not in files or f"def {name}(" not in files[file].read_text(encoding="utf-8")
        ]
    assert missing == []
