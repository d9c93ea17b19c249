"""`ftadvise data`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ftadvise.commands.data_options import data_options, data_settings, take_data_fields
from ftadvise.commands.options import json_option, lang_option, language, print_json


@click.command("data")
@click.argument("data", metavar="DATA")
@click.option("--model", "-m", help="Count with this model's tokenizer, where it is on this disk, and show its chat template.")
@click.option("--seq-len", type=click.IntRange(min=1), help="Show what is longer than this.")
@click.option("--samples", type=click.IntRange(min=0, max=100), default=3, show_default=True, help="How many rows to show.")
@click.option("--write", type=click.Path(path_type=Path), metavar="FILE", help="Write the rows to this file, as JSON lines of messages.")
@data_options
@json_option
@lang_option
def command(
    data: str,
    model: str | None,
    seq_len: int | None,
    samples: int,
    write: Path | None,
    as_json: bool,
    lang: str | None,
    **options: Any,
) -> None:
    """Show what a run would learn from DATA: a file, a folder, a glob pattern, or owner/name on the hub.

    The format that was recognised, how many rows are learned and why others are not, samples with what is learned marked, lengths, and the
    problems by line. Exit code 2 when a run would stop at a broken row.
    """
    settings = data_settings(data, take_data_fields(options))
    spec = None
    if model is not None:
        from ftadvise.profiles.resolve_model import resolve_model

        spec = resolve_model(model)
    from ftadvise.runner.data.preview import preview

    found = preview(settings, spec, seq_len=seq_len, samples=samples)
    if as_json:
        print_json(found.to_json())
    else:
        from ftadvise.rendering.console import err_console, out_console
        from ftadvise.rendering.data_view import data_view, next_command
        from ftadvise.rendering.texts import text

        chosen = language(lang)
        out_console().print(data_view(found, chosen))
        if found.stops is None and write is None:
            err_console().print(text("preview.next", chosen, command=next_command(found)), style="dim", markup=False, soft_wrap=True)
    if found.stops is not None:
        raise found.stops
    if write is not None:
        from ftadvise.rendering.console import err_console
        from ftadvise.rendering.texts import text
        from ftadvise.runner.data.writing import write_rows

        for path, rows in write_rows(write, found.rows):
            err_console().print(
                text("preview.wrote", language(lang), path=path, rows=f"{rows:,}"), style="dim", markup=False, soft_wrap=True
            )
