"""`ftadvise explain`."""

from __future__ import annotations

import dataclasses
import gc
from pathlib import Path

import click

from ftadvise.commands.options import calibration_option, json_option, lang_option, language, print_json, rules_option


@click.command("explain")
@click.argument("rule_id")
@rules_option
@calibration_option
@json_option
@lang_option
def command(rule_id: str, rules: tuple[Path, ...], as_json: bool, lang: str | None) -> None:
    """Explain RULE_ID: what it says, when it fires, what it weighs, where it comes from, and which plans it changes."""
    gc.set_threshold(100_000)
    from ftadvise.advisor.explain import explain_rule
    from ftadvise.advisor.rule_impact import rule_impact

    explanation = explain_rule(rule_id, rules)
    impact = rule_impact(explanation.id, rules) if explanation.when is not None else None
    if as_json:
        print_json(
            {"schema": "ftadvise.rule/1", **dataclasses.asdict(explanation), "impact": dataclasses.asdict(impact) if impact else None}
        )
        return
    from ftadvise.rendering.console import out_console
    from ftadvise.rendering.rule_view import explanation_view

    out_console().print(explanation_view(explanation, language(lang), impact))
