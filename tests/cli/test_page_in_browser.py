"""The page in a real browser: without a network nothing is missing, nothing overflows on a phone or a screen, in light and dark."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from finished_reports import FALL_BACKS, finished_report, several_ranks

import ftadvise
from ftadvise import api
from ftadvise.advisor.plan_types import NoPlanError
from ftadvise.rendering.plan_page import plan_page, shortfall_page
from ftadvise.rendering.report_page import report_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")

WIDTHS = (390, 1200)
_MEASURE = """
<script>
addEventListener("load", () => {
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, root = page.documentElement;
    const wide = [...page.querySelectorAll("body *")].filter(each => each.getBoundingClientRect().right > root.clientWidth + 1);
    const bars = [...page.querySelectorAll("svg.bar")].map(each => Math.round(each.getBoundingClientRect().width));
    const line = document.createElement("p");
    line.textContent = ["MEASURED", frame.width, root.scrollWidth, root.clientWidth, root.scrollHeight, wide.length, bars.join("+"),
      getComputedStyle(page.body).backgroundColor, page.querySelectorAll("section").length].join("|");
    document.body.append(line);
  }
});
</script>
"""


def _open(page: str, folder: Path, *flags: str) -> tuple[list[list[str]], str]:
    """What the page measures at each width, and what the browser has to complain about.

    A frame of the width stands for the window, because a browser's window is never as narrow as a phone; the page's own policy forbids
    scripts in it, so the script that measures is outside.
    """
    frames = "".join(f'<iframe width="{width}" height="800" srcdoc="{html.escape(page)}"></iframe>' for width in WIDTHS)
    (folder / "frames.html").write_text(f"<!DOCTYPE html><meta charset=utf-8><body>{frames}{_MEASURE}", encoding="utf-8")
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--disable-gpu", "--no-first-run", "--disable-extensions", f"--user-data-dir={folder / 'profile'}"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--virtual-time-budget=5000", *flags, "--dump-dom"]
    if os.geteuid() == 0:
        command.append("--no-sandbox")  # Chromium refuses to run as root otherwise
    done = subprocess.run([*command, (folder / "frames.html").as_uri()], capture_output=True, text=True, timeout=120, check=True)
    lines = [line.split("|")[1:] for line in re.findall(r"<p>(MEASURED.*?)</p>", done.stdout)]
    return lines, "\n".join(line for line in done.stderr.splitlines() if ":CONSOLE" in line)


def _pages() -> Iterator[tuple[str, str]]:
    plan = ftadvise.plan("Qwen-7B", gpu="RTX 4090")
    with pytest.raises(NoPlanError) as raised:
        ftadvise.plan("Llama-2-70b-hf", gpu="RTX 4090")
    for lang in ("en", "zh"):
        yield f"plan-{lang}", plan_page(plan, lang, frontier=api.fit_frontier(plan), plan_path=Path("ftadvise-plan.yaml"))
        yield f"shortfall-{lang}", shortfall_page(raised.value, lang)
        yield f"run-{lang}", report_page(finished_report(attempts=FALL_BACKS, ranks=several_ranks()), lang)


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return dict(_pages())


@pytest.mark.parametrize("name", ["plan-en", "plan-zh", "shortfall-en", "shortfall-zh", "run-en", "run-zh"])
def test_nothing_overflows_and_nothing_is_missing(name: str, pages: dict[str, str], tmp_path: Path) -> None:
    lines, complaints = _open(pages[name], tmp_path)
    assert complaints == ""
    assert [int(line[0]) for line in lines] == list(WIDTHS)
    for _, scroll_width, client_width, height, wide, bars, _, sections in lines:
        assert int(scroll_width) == int(client_width)
        assert int(wide) == 0
        assert int(height) > 800
        assert all(int(bar) > 300 for bar in bars.split("+"))
        assert int(sections) == pages[name].count("<section")


def test_dark_is_dark(pages: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "light").mkdir()
    (tmp_path / "dark").mkdir()
    light, _ = _open(pages["plan-en"], tmp_path / "light", "--blink-settings=preferredColorScheme=1")
    dark, _ = _open(pages["plan-en"], tmp_path / "dark", "--blink-settings=preferredColorScheme=0")
    assert {line[6] for line in light} == {"rgb(255, 255, 255)"}
    assert {line[6] for line in dark} == {"rgb(23, 23, 22)"}


def test_the_page_s_own_policy_forbids_what_it_does_not_have(pages: dict[str, str], tmp_path: Path) -> None:
    """The complaint that the other tests do not see would be seen: a page with an address in it makes one."""
    broken = pages["plan-en"].replace("<main>", '<main><img src="https://example.invalid/x.png">')
    assert broken != pages["plan-en"]
    _, complaints = _open(broken, tmp_path)
    assert "Content Security Policy" in complaints
