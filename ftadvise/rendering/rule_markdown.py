"""The rules and the facts as Markdown, for docs/rules.md."""

from __future__ import annotations

from ftadvise.advisor.facts import STAGE_NAMES, STAGE_OF_FACT, fact_kinds
from ftadvise.advisor.rule_schema import Rule
from ftadvise.advisor.rule_set import load_rules


def catalogue() -> str:
    """Every rule that comes with ftadvise, table by table."""
    lines: list[str] = []
    table = None
    for rule in load_rules():
        if rule.table != table:
            table = rule.table
            lines += ["", f"### {table.en} · {table.zh}", ""]
        lines += _entry(rule)
    return "\n".join(lines[1:]) + "\n"


def facts_table() -> str:
    """Every fact: its name, type or values, from when on it is known, and what it means."""
    lines = ["| fact | type | known with the | meaning |", "|---|---|---|---|"]
    for name, kind in fact_kinds().items():
        values = ", ".join(f"`{value}`" for value in kind.values) or {"bool": "true or false"}.get(kind.type, kind.type)
        lines.append(f"| `{name}` | {values} | {STAGE_NAMES[STAGE_OF_FACT.get(name, 0)]} | {kind.meaning} |")
    return "\n".join(lines) + "\n"


def _entry(rule: Rule) -> list[str]:
    when = f"`{rule.when.text}`" + "".join(f", with `{other}`" for other in rule.requires)
    counts = f"; counts only while `{rule.premise.text}`" if rule.premise else ""
    lines = [
        f"- **{rule.id}** · {rule.effect_words} · weight {rule.weight} · {rule.source}  ",
        f"  When {when}{counts}.  ",
        f"  {rule.sentence.en}  ",
        f"  {rule.sentence.zh}",
    ]
    if rule.comment:
        lines[-1] += "  "
        lines.append(f"  *{rule.comment.en}*")
    return lines
