"""The documentation against the code: commands, links, help texts, tables."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
from house import ROOT, our_files

DOCUMENTS = sorted(path for path in our_files() if path.suffix == ".md")
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def _shell_lines(text: str) -> list[str]:
    """Commands in fenced shell blocks and in table cells and sentences, without their comments."""
    fenced = "\n".join(re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)).splitlines()
    return [line.split(" #")[0].strip() for line in fenced] + re.findall(r"`((?:make|ftadvise) [^`]+)`", text)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files(path: Path) -> None:
    targets = [target for target in _LINK.findall(path.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_make_commands_of_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"demo", "test", "bench-peers"} <= targets
    for path in DOCUMENTS:
        for line in _shell_lines(path.read_text(encoding="utf-8")):
            if line.startswith("make "):
                goals = [word for word in shlex.split(line)[1:] if "=" not in word]
                assert set(goals) <= targets, f"{path.name}: {line}"


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_ftadvise_commands_of_the_readme_are_accepted(name: str) -> None:
    """Every command line parses: its command exists and has these flags. Nothing is executed."""
    from ftadvise.cli import cli

    lines = [line for line in _shell_lines((ROOT / name).read_text(encoding="utf-8")) if line.startswith("ftadvise ")]
    assert len(lines) >= 10
    for line in lines:
        command_name, *arguments = shlex.split(line)[1:]
        context = cli.make_context("ftadvise", [command_name])
        command = cli.get_command(context, command_name)
        assert command is not None, line
        command.make_context(command_name, arguments, parent=context)


def test_marked_blocks_are_what_the_program_says_today() -> None:
    """`make docs` mends a failure."""
    module: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "refresh.py"))
    documents: tuple[Path, ...] = module["DOCUMENTS"]
    blocks = 0
    for path in documents:
        text = path.read_text(encoding="utf-8")
        blocks += text.count("<!-- end -->")
        assert module["refreshed"](text) == text, f"{path.name} is out of date"
    assert blocks >= 12


def test_ci_runs_make_test_and_nothing_else() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    commands = [line for line in script.read_text(encoding="utf-8").splitlines() if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["make test"]
