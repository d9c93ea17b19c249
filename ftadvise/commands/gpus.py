"""`ftadvise gpus`."""

from __future__ import annotations

import dataclasses

import click

from ftadvise.commands.options import json_option, lang_option, language, print_json


@click.command("gpus")
@click.argument("query", default="")
@json_option
@lang_option
def command(query: str, as_json: bool, lang: str | None) -> None:
    """List the GPUs with a profile whose name contains QUERY. Unconfirmed values are marked with ?."""
    from ftadvise.profiles.gpu_cards import card_to_gpu
    from ftadvise.profiles.resolve_gpu import list_gpus

    gpus = [card_to_gpu(card) for card in list_gpus(query) if card.memory_gib is not None]
    if as_json:
        print_json({"schema": "ftadvise.gpus/1", "gpus": [dataclasses.asdict(gpu) for gpu in gpus]})
        return
    from ftadvise.rendering.catalogue_view import gpus_view
    from ftadvise.rendering.console import out_console

    out_console().print(gpus_view(gpus, language(lang)))
