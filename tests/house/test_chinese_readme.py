"""README.zh-CN.md says what README.md says: the same commands, code, links, figures and exit codes."""

from __future__ import annotations

import re

from house import ROOT

ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))


def _blocks(text: str, language: str) -> list[str]:
    """Lines of the fenced blocks without comments."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [line.split(" #")[0].rstrip() for block in blocks for line in block.splitlines()]


def _links(text: str) -> set[str]:
    return set(re.findall(r"\]\(([^)\s]+)\)", text)) - {"README.md", "README.zh-CN.md"}


def test_commands_and_code_are_the_same() -> None:
    assert _blocks(CHINESE, "sh") == _blocks(ENGLISH, "sh") != []
    assert _blocks(CHINESE, "python") == _blocks(ENGLISH, "python") != []


def test_links_headings_and_tables_are_the_same() -> None:
    assert _links(CHINESE) == _links(ENGLISH)
    for pattern in (r"^#+ ", r"^- ", r"^\| *(\d+) \|"):
        assert len(re.findall(pattern, _without_blocks(CHINESE), re.MULTILINE)) == len(
            re.findall(pattern, _without_blocks(ENGLISH), re.MULTILINE)
        ), pattern
    assert re.findall(r"^\| (\d+) \|", CHINESE, re.MULTILINE) == re.findall(r"^\| (\d+) \|", ENGLISH, re.MULTILINE)


def test_each_leads_to_the_other() -> None:
    assert "](README.zh-CN.md)" in ENGLISH
    assert "](README.md)" in CHINESE


def test_the_figures_are_the_same() -> None:
    """Every per cent of the accuracy summary stands in both."""

    def figures(text: str) -> list[str]:
        block = re.findall(r"<!-- summary: accuracy\.summary(?:_zh)? -->\n(.*?)<!-- end -->", text, re.DOTALL)[0]
        return sorted(re.findall(r"\d+\.\d+", block))

    assert figures(CHINESE) == figures(ENGLISH) != []


def _without_blocks(text: str) -> str:
    return re.sub(r"<!-- .*?<!-- end -->|^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
