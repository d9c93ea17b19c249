"""`ftadvise report`."""

from __future__ import annotations

from pathlib import Path

import click

from ftadvise.commands.options import json_option, lang_option, language, print_json


@click.command("report")
@click.argument("run_dir", type=click.Path(path_type=Path))
@json_option
@lang_option
def command(run_dir: Path, as_json: bool, lang: str | None) -> None:
    """Show the finished run in RUN_DIR again: predicted beside measured."""
    from ftadvise.runner.report import read_report

    report = read_report(run_dir)
    if as_json:
        print_json(report.to_json())
        return
    from ftadvise.rendering.console import out_console
    from ftadvise.rendering.report_view import report_view

    out_console().print(report_view(report, language(lang)))
