"""`--html FILE`: the option, and writing the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ftadvise.commands.output_file import check_replaceable, keep_old

_F = TypeVar("_F", bound=Callable[..., Any])
_MARK = "ftadvise.plan-page/"


def page_option(mark: str, text: str) -> Callable[[_F], _F]:
    """Add --html; a place where the page may not go is refused before anything is computed.

    Args:
        mark: what an older page has in its first lines that this one may replace.
        text: the help.
    """

    def check(_ctx: click.Context, _param: click.Parameter, path: Path | None) -> Path | None:
        if path is not None:
            check_replaceable(path, mark, "page of ftadvise", "--html")
        return path

    return click.option("--html", type=click.Path(path_type=Path), metavar="FILE", callback=check, help=text)


html_option = page_option(_MARK, "Also write the plan as one page of HTML that needs nothing else: bars, fit map, reasons.")
"""--html of a plan."""


def write_run_page(path: Path, report: Any, lang: str) -> None:
    """Write the page of a finished run (a `runner.report.RunReport`).

    Raises:
        InputError: the folder is missing or not writable.
    """
    from ftadvise.rendering.report_page import report_page

    _write(path, report_page(report, lang))


def write_plan_page(path: Path, plan: Any, plan_path: Path, lang: str) -> None:
    """Write the page of a plan; the file is there completely or not at all.

    Args:
        plan: an `advisor.plan_types.Plan`.
        plan_path: where its plan file is.

    Raises:
        InputError: the folder is missing or not writable.
    """
    from ftadvise import api
    from ftadvise.rendering.plan_page import plan_page

    _write(path, plan_page(plan, lang, frontier=api.fit_frontier(plan), plan_path=plan_path))


def write_shortfall_page(path: Path, error: Any, lang: str) -> None:
    """Write the page that says why nothing fits (an `advisor.plan_types.NoPlanError`).

    Raises:
        InputError: the folder is missing or not writable.
    """
    from ftadvise.rendering.plan_page import shortfall_page

    _write(path, shortfall_page(error, lang))


def _write(path: Path, page: str) -> None:
    from ftadvise.estimator.plan_file import write_text_atomically

    keep_old(path)
    write_text_atomically(path, page)
