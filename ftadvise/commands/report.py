"""`ftadvise report`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ftadvise.commands.options import json_option, lang_option, language, print_json
from ftadvise.commands.page_file import page_option

_MARK = "ftadvise.report-page/"


@click.command("report")
@click.argument("run_dirs", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="RUN_DIR...")
@page_option(_MARK, "Also write the run as one page of HTML that needs nothing else: loss, memory over time, predicted against measured.")
@json_option
@lang_option
def command(run_dirs: tuple[Path, ...], html: Path | None, as_json: bool, lang: str | None) -> None:
    """Show the finished run in RUN_DIR again: predicted beside measured. Several folders: compare their runs."""
    if len(run_dirs) > 1:
        _compare(run_dirs, html, as_json, language(lang))
        return
    from ftadvise.runner.report import read_report

    report = read_report(run_dirs[0])
    if html is not None:
        from ftadvise.commands.page_file import write_run_page

        write_run_page(html, report, language(lang))
    if as_json:
        print_json(report.to_json())
        return
    from ftadvise.rendering.report_view import report_view

    _show(report_view(report, language(lang)))


def _compare(run_dirs: tuple[Path, ...], html: Path | None, as_json: bool, lang: str) -> None:
    from ftadvise.profiles.errors import InputError
    from ftadvise.runner.compare import compare
    from ftadvise.runner.report import read_report

    if html is not None:
        raise InputError("--html writes the page of one run", hint=f"ftadvise report {run_dirs[0]} --html FILE")
    comparison = compare([(str(run_dir), read_report(run_dir)) for run_dir in run_dirs])
    if as_json:
        print_json(comparison.to_json())
        return
    from ftadvise.rendering.compare_view import comparison_view

    _show(comparison_view(comparison, lang))


def _show(view: Any) -> None:
    from ftadvise.rendering.console import out_console

    out_console().print(view)
