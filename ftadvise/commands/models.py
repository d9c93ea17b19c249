"""`ftadvise models`."""

from __future__ import annotations

import dataclasses

import click

from ftadvise.commands.options import json_option, lang_option, language, print_json


@click.command("models")
@click.argument("query", default="")
@json_option
@lang_option
def command(query: str, as_json: bool, lang: str | None) -> None:
    """List the models with a card whose name contains QUERY. Models without a card work too: name a folder, a GGUF file or a hub id."""
    from ftadvise.profiles.resolve_model import list_models

    models = list_models(query or None)
    if as_json:
        print_json({"schema": "ftadvise.models/1", "models": [dataclasses.asdict(model) for model in models]})
        return
    from ftadvise.rendering.catalogue_view import models_view
    from ftadvise.rendering.console import out_console

    out_console().print(models_view(models, language(lang)))
