"""The repository as the house tests see it: its root, its rooms, its own text files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("profiles", "estimator", "rules", "advisor", "runner")
_NOT_OURS = re.compile(r"(\..*cache|\.git|\.venv.*|\.hypothesis|__pycache__|.*\.egg-info|build|dist|ftadvise-runs)")


def our_files() -> Iterator[Path]:
    """Every file of the repository that people write, once: links to rooms, environments, caches and builds are left out."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if not _NOT_OURS.fullmatch(name) and not (Path(folder) / name).is_symlink()]
        yield from (Path(folder) / name for name in names if name not in (".git", "ftadvise-plan.yaml"))


def pyproject() -> str:
    """The text of pyproject.toml (Python 3.10 has no reader for it)."""
    return (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def version() -> str:
    """The version in pyproject.toml."""
    found = re.search(r'^version = "(.+)"$', pyproject(), re.MULTILINE)
    assert found
    return found[1]
