"""Writes into the documentation what the program itself says: `--help` texts, and tables out of the benchmarks' results.

A marked block (`<!-- help: plan -->` ... `<!-- end -->`) is replaced whole. `<!-- table: accuracy.summary -->` holds what `table` of
benchmarks/accuracy/summary.py returns, `<!-- rules: catalogue -->` what `catalogue` of
ftadvise/rendering/rule_markdown.py does. Run: python docs/refresh.py (`make docs`); a test compares.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
from pathlib import Path

from click.testing import CliRunner

from ftadvise.cli import cli

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "README.zh-CN.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("cli", "rules", "memory_model", "speed_model", "claims", "export", "overhead")),
)
_BLOCK = re.compile(r"<!-- (?P<kind>[a-z]+):(?P<what>[ a-z0-9_.]*)-->\n.*?<!-- end -->", re.DOTALL)
if str(ROOT) not in sys.path:  # benchmarks/ is no part of the installed package
    sys.path.insert(0, str(ROOT))


def refreshed(document: str) -> str:
    """The Markdown `document` with every marked block as it should read today."""
    return _BLOCK.sub(_block, document)


def _block(match: re.Match[str]) -> str:
    what = match["what"].strip()
    content = {"help": _help, "rules": _rules}.get(match["kind"], functools.partial(_computed, match["kind"]))(what)
    return f"<!-- {match['kind']}:{match['what']}-->\n{content}<!-- end -->"


def _help(command: str) -> str:
    result = CliRunner().invoke(cli, [*command.split(), "--help"], prog_name="ftadvise", terminal_width=100)
    if result.exit_code != 0:
        raise SystemExit(f"ftadvise {command} --help failed: {result.output}")
    lines = [line.rstrip() for line in result.output.splitlines()]
    return "\n".join(["```text", *lines, "```", ""])


def _rules(function: str) -> str:
    """What a function of ftadvise/rendering/rule_markdown.py returns."""
    content: str = getattr(importlib.import_module("ftadvise.rendering.rule_markdown"), function)()
    return content


def _computed(function: str, module: str) -> str:
    """What a function of a module in benchmarks/ returns."""
    content: str = getattr(importlib.import_module(f"benchmarks.{module}"), function)()
    return content


def main() -> None:
    """Rewrite the documents in place."""
    for path in DOCUMENTS:
        path.write_text(refreshed(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
