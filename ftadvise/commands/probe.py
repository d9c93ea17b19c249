"""`ftadvise probe`."""

from __future__ import annotations

import dataclasses

import click

from ftadvise.commands.options import json_option, lang_option, language, print_json


@click.command("probe")
@json_option
@lang_option
def command(as_json: bool, lang: str | None) -> None:
    """Show this machine: every GPU with its free memory and the processes on it, RAM, CPU. No GPU is not an error."""
    from ftadvise.profiles.probe import probe

    hardware = probe()
    if as_json:
        print_json({"schema": "ftadvise.probe/1", **dataclasses.asdict(hardware)})
        return
    from ftadvise.rendering.console import out_console
    from ftadvise.rendering.hardware_view import hardware_view

    out_console().print(hardware_view(hardware, language(lang)))
