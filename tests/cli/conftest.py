"""The command line as a user meets it: a command in an empty folder, and what it printed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from ftadvise.cli import main


class Outcome(NamedTuple):
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def columns() -> int:
    """How wide the terminal is."""
    return 200


@pytest.fixture
def ftadvise(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int) -> Callable[..., Outcome]:
    """Run a command in an empty folder and return its outcome."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(columns))

    def run(*arguments: str) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        printed = capsys.readouterr()
        return Outcome(ended.value.code if isinstance(ended.value.code, int) else 0, printed.out, printed.err)

    return run


@pytest.fixture
def output(ftadvise: Callable[..., Outcome]) -> Callable[..., str]:
    """Run a command that must end with `code`; its answer, or for another code than 0 what stderr says."""

    def run(*arguments: str, code: int = 0) -> str:
        outcome = ftadvise(*arguments)
        assert outcome.code == code, outcome.err
        return outcome.out if code == 0 else outcome.err

    return run
