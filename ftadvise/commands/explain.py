"""`ftadvise explain`."""

from __future__ import annotations

import dataclasses

import click

from ftadvise.commands.options import json_option, lang_option, language, print_json


@click.command("explain")
@click.argument("rule_id")
@json_option
@lang_option
def command(rule_id: str, as_json: bool, lang: str | None) -> None:
    """Explain RULE_ID: what it says, when it fires, what it weighs, where it comes from."""
    from ftadvise.advisor.explain import explain_rule

    explanation = explain_rule(rule_id)
    if as_json:
        print_json({"schema": "ftadvise.rule/1", **dataclasses.asdict(explanation)})
        return
    from ftadvise.rendering.console import out_console
    from ftadvise.rendering.rule_view import explanation_view

    out_console().print(explanation_view(explanation, language(lang)))
