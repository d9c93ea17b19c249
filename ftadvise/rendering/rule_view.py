"""Rules, listed and explained."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ftadvise.advisor.explain import Explanation
from ftadvise.rendering.texts import text


def rules_view(rules: Iterable[Explanation], lang: str) -> RenderableType:
    """One line per rule, under the name of its table."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="cyan")
    table.add_column()
    table.add_column(no_wrap=True, style="dim")
    current = None
    for rule in rules:
        name = rule.table.in_language(lang)
        if name != current:
            if current is not None:
                table.add_row("", "", "")
            table.add_row(Text(name, style="bold"), "", "")
            current = name
        table.add_row(rule.id, rule.sentence.in_language(lang), rule.source or "")
    return table


def explanation_view(rule: Explanation, lang: str) -> RenderableType:
    """Everything about one rule."""
    head = Text(rule.id, style="bold cyan")
    head.append(f"  {rule.table.in_language(lang)}", style="not bold dim")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column()
    rows = {
        "when": rule.when,
        "premise": rule.premise,
        "effect": rule.effect,
        "weight": None if rule.weight is None else str(rule.weight),
        "source": rule.source,
        "notes": "\n".join(note.in_language(lang) for note in rule.notes) or None,
        "comment": rule.comment.in_language(lang) if rule.comment else None,
        "file": rule.file,
    }
    for key, value in rows.items():
        if value:
            table.add_row(text(f"rule.{key}", lang), Text(value))
    return Group(head, Text(rule.sentence.in_language(lang)), table)
