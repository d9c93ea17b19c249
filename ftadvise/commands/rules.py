"""`ftadvise rules`."""

from __future__ import annotations

import dataclasses

import click

from ftadvise.commands.options import json_option, lang_option, language, print_json


@click.command("rules")
@json_option
@lang_option
def command(as_json: bool, lang: str | None) -> None:
    """List the rules, table by table."""
    from ftadvise.advisor.explain import list_rules

    rules = list_rules()
    if as_json:
        print_json({"schema": "ftadvise.rules/1", "rules": [dataclasses.asdict(rule) for rule in rules]})
        return
    from ftadvise.rendering.console import out_console
    from ftadvise.rendering.rule_view import rules_view

    out_console().print(rules_view(rules, language(lang)))
