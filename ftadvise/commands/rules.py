"""`ftadvise rules`: list them, or check a file of your own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from ftadvise.commands.options import json_option, lang_option, language, print_json, rules_option


@click.group("rules", invoke_without_command=True)
@rules_option
@json_option
@lang_option
@click.pass_context
def command(ctx: click.Context, rules: tuple[Path, ...], as_json: bool, lang: str | None) -> None:
    """List the rules, table by table, or check a file of your own."""
    if ctx.invoked_subcommand is None:
        _list(rules, as_json, lang)


@command.command("list")
@rules_option
@json_option
@lang_option
def list_command(rules: tuple[Path, ...], as_json: bool, lang: str | None) -> None:
    """List the rules that a plan is made with: ftadvise's and yours over them."""
    _list(rules, as_json, lang)


@command.command("check")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@json_option
@lang_option
def check_command(files: tuple[Path, ...], as_json: bool, lang: str | None) -> None:
    """Check rule files: everything that is wrong in FILE..., with file, line and key. Exit code 2 if anything is."""
    from ftadvise.advisor.rule_set import check_rules
    from ftadvise.cli import show_error
    from ftadvise.profiles.errors import InputError

    rules, problems = check_rules(files)
    if as_json:
        found = [{"id": rule.id, "file": rule.file, "replaces": rule.replaces, "effect": rule.effect_words} for rule in rules]
        broken = [{"problem": str(each), "hint": each.hint} for each in problems]
        print_json({"schema": "ftadvise.rules-check/1", "rules": found, "problems": broken})
    else:
        from ftadvise.rendering.console import out_console
        from ftadvise.rendering.rule_view import checked_view

        if rules:
            out_console().print(checked_view(rules, language(lang)))
        for problem in problems:
            show_error(str(problem), problem.hint, InputError.exit_code)
    if problems:
        click.get_current_context().exit(InputError.exit_code)


def _list(files: tuple[Path, ...], as_json: bool, lang: str | None) -> None:
    from ftadvise.advisor.explain import list_rules

    rules = list_rules(files)
    if as_json:
        print_json({"schema": "ftadvise.rules/1", "rules": [dataclasses.asdict(rule) for rule in rules]})
        return
    from ftadvise.rendering.console import out_console
    from ftadvise.rendering.rule_view import rules_view

    out_console().print(rules_view(rules, language(lang)))
