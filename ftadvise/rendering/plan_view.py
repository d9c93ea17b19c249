"""The plan: what is recommended, what it costs, why, what else was considered, what to mind."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ftadvise.advisor.plan_types import Alternative, Plan, Reason
from ftadvise.rendering.estimate_view import device_name, figures, recipe_line
from ftadvise.rendering.texts import text
from ftadvise.rendering.units import duration, gib

_GROUP_STYLES = {"must": "bold red", "should": "bold green", "choice": "dim"}


def plan_view(plan: Plan, lang: str, *, every_rule: bool = False) -> RenderableType:
    """Everything a plan says; rules about settings that simply hold are named in one line unless `every_rule`."""
    estimate = plan.estimate
    title = text("plan.title", lang, model=estimate.model.id, device=device_name(estimate.hardware))
    blocks: list[RenderableType] = [
        Text(title, style="bold"),
        recipe_line(plan.recipe, lang),
        Text(),
        *figures(estimate, lang, plan.request.lengths),
    ]
    if plan.duration:
        line = text("plan.duration", lang, steps=f"{plan.duration.steps:,}", time=duration(3600 * plan.duration.hours))
        gpu = estimate.hardware.gpu
        if plan.duration.cost_usd is not None and gpu is not None and gpu.price_usd_per_hour:
            line += ", " + text("plan.cost", lang, dollars=f"{plan.duration.cost_usd:.2f}", price=f"{gpu.price_usd_per_hour:.2f}")
        blocks.append(Text("       " + line))
    blocks += [_heading(text("plan.why", lang)), _reasons(plan.reasons, lang, every_rule=every_rule)]
    if plan.alternatives:
        blocks += [_heading(text("plan.considered", lang)), _alternatives(plan.alternatives, lang)]
    if plan.warnings:
        blocks += [_heading(text("plan.warnings", lang)), _warnings(plan, lang)]
    return Group(*blocks)


def _heading(words: str) -> Text:
    return Text(f"\n{words}", style="bold")


def _warnings(plan: Plan, lang: str) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for warning in plan.warnings:
        table.add_row("  •", warning.in_language(lang))
    return table


def _reasons(reasons: tuple[Reason, ...], lang: str, *, every_rule: bool) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="cyan")
    table.add_column()
    in_brief = [] if every_rule else [each for each in reasons if each.group == "choice" and each.outcome == "applied"]
    for reason in (each for each in reasons if each not in in_brief):
        group = Text("  " + text(f"group.{reason.group}", lang), style=_GROUP_STYLES[reason.group])
        sentence = Text(reason.sentence.in_language(lang))
        outcome = text(f"outcome.{reason.outcome}", lang)
        detail = reason.detail.in_language(lang) if reason.detail else outcome
        if reason.outcome != "applied":
            sentence.stylize("dim")
            sentence.append(f" ({detail})", style="yellow")
        table.add_row(group, reason.rule, sentence)
    if in_brief:
        names = ", ".join(reason.rule for reason in in_brief)
        line = text("plan.in_brief", lang, rules=names)
        table.add_row(Text("  " + text("group.choice", lang), style=_GROUP_STYLES["choice"]), "", Text(line, style="dim"))
    return table


def _alternatives(alternatives: tuple[Alternative, ...], lang: str) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for each in alternatives:
        table.add_row("  " + each.label, gib(each.estimate.memory.device_used_bytes), each.reason.in_language(lang))
    return table
