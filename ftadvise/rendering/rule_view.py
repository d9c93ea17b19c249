"""Rules, listed, checked and explained."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ftadvise.advisor.explain import Explanation
from ftadvise.advisor.rule_impact import Impact
from ftadvise.advisor.rule_schema import Rule
from ftadvise.rendering.sentence import Sentence
from ftadvise.rendering.texts import text

_SHOWN_PLANS = 5


def rules_view(rules: Iterable[Explanation], lang: str) -> RenderableType:
    """One line per rule, under the name of its table."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="cyan")
    table.add_column(overflow="fold")
    current = None
    for rule in rules:
        name = rule.table.in_language(lang)
        if name != current:
            if current is not None:
                table.add_row("", "")
            table.add_row(Text(name, style="bold"), "")
            current = name
        sentence = Sentence(rule.sentence.in_language(lang))
        if rule.origin:
            sentence.append(f" [{rule.origin.in_language(lang)}]", style="magenta")
        sentence.append(f" ({rule.source})", style="dim")
        table.add_row(rule.id, sentence)
    return table


def checked_view(rules: Iterable[Rule], lang: str) -> RenderableType:
    """The rules of checked files that are in order: what each does, and whether it adds or replaces."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="cyan")
    table.add_column(overflow="fold")
    for rule in rules:
        kind = text("rule.replaces", lang, file=rule.replaces) if rule.replaces else text("rule.adds", lang)
        line = Sentence(f"{kind}: {rule.effect_words}")
        line.append(f"  {text('rule.when', lang)} {rule.when.text}", style="dim")
        table.add_row(rule.id, line)
    return table


def explanation_view(rule: Explanation, lang: str, impact: Impact | None = None) -> RenderableType:
    """Everything about one rule."""
    head = Text(rule.id, style="bold cyan")
    head.append(f"  {rule.table.in_language(lang)}", style="not bold dim")
    if rule.origin:
        head.append(f"  ({rule.origin.in_language(lang)})", style="not bold yellow")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    rows = {
        "when": rule.when,
        "premise": rule.premise,
        "requires": ", ".join(rule.requires) or None,
        "effect": rule.effect,
        "weight": None if rule.weight is None else str(rule.weight),
        "source": rule.source,
        "notes": "\n".join(note.in_language(lang) for note in rule.notes) or None,
        "comment": rule.comment.in_language(lang) if rule.comment else None,
        "replaced": rule.replaced.in_language(lang) if rule.replaced else None,
        "impact": _impact(impact, lang) if impact else None,
        "file": rule.file,
    }
    for key, value in rows.items():
        if value:
            table.add_row(text(f"rule.{key}", lang), Sentence(value))
    return Group(head, Sentence(rule.sentence.in_language(lang)), table)


def _impact(impact: Impact, lang: str) -> str:
    """How many of the compared plans it changes, and the first of them."""
    numbers = {"speaks": impact.speaks, "situations": impact.situations, "changed": len(impact.changed)}
    lines = [text("rule.impact_counts", lang, **numbers)]
    for plan in impact.changed[:_SHOWN_PLANS]:
        lines.append(f"{plan.situation}: " + "; ".join(f"{name} {before} -> {after}" for name, before, after in plan.changes))
    if len(impact.changed) > _SHOWN_PLANS:
        lines.append(text("rule.impact_more", lang, count=len(impact.changed) - _SHOWN_PLANS))
    return "\n".join(lines)
