"""The plan: what is recommended, what it costs, why, what else was considered, what to mind."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ftadvise.advisor.plan_types import Alternative, Bottleneck, Plan, Reason
from ftadvise.advisor.texts import Text as Words
from ftadvise.rendering.chinese import in_language
from ftadvise.rendering.estimate_view import device_name, figures, recipe_line
from ftadvise.rendering.sentence import Entries, Sentence
from ftadvise.rendering.texts import text
from ftadvise.rendering.units import gib, rate

_GROUP_STYLES = {"must": "bold red", "should": "bold green", "choice": "dim"}


def plan_view(plan: Plan, lang: str, *, every_rule: bool = False) -> RenderableType:
    """Everything a plan says; rules about settings that simply hold are named in one line unless `every_rule`."""
    estimate = plan.estimate
    title = text("plan.title", lang, model=estimate.model.id, device=device_name(estimate.hardware, lang))
    blocks: list[RenderableType] = [
        Text(title, style="bold"),
        recipe_line(plan.recipe, lang),
        Text(),
        *figures(estimate, lang, plan.request.lengths),
    ]
    blocks += [_heading(text("plan.why", lang)), _reasons(plan.reasons, lang, every_rule=every_rule)]
    if plan.alternatives:
        blocks += [_heading(text("plan.considered", lang)), _alternatives(plan.alternatives, lang)]
    if plan.sensitivity:
        blocks += [_heading(text("plan.sensitivity", lang)), _sensitivity(plan, lang)]
    if plan.wanted:
        blocks += [
            _heading(text("plan.wanted", lang, label=in_language(plan.wanted.label, lang))),
            _listed((change.text for change in plan.wanted.changes), lang),
        ]
    if plan.bottleneck:
        blocks += [_heading(text("plan.bottleneck", lang)), _bottleneck(plan.bottleneck, lang)]
    if plan.warnings:
        blocks += [_heading(text("plan.warnings", lang)), _listed(plan.warnings, lang)]
    return Group(*blocks)


def _heading(words: str) -> Text:
    return Text(f"\n{words}", style="bold")


def _bottleneck(bottleneck: Bottleneck, lang: str) -> Entries:
    rows: list[tuple[list[Text], Text]] = [([Text("  •")], Sentence(bottleneck.bound.in_language(lang)))]
    for key, sentences in (("plan.faster", bottleneck.faster), ("plan.smaller", bottleneck.smaller)):
        for index, sentence in enumerate(sentences):
            head = Text("" if index else "  " + text(key, lang), style="cyan")
            rows.append(([head], Sentence(sentence.in_language(lang))))
    return Entries(rows)


def _sensitivity(plan: Plan, lang: str) -> Table:
    """One size doubled each: memory and speed, with the difference to the plan."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="fold")
    table.add_column(justify="right", overflow="fold")
    table.add_column(justify="right", overflow="fold", style="dim")
    table.add_column(justify="right", overflow="fold")
    table.add_column(overflow="fold")
    base = plan.estimate.memory.device_used_bytes
    for each in plan.sensitivity:
        memory, speed = each.estimate.memory, each.estimate.throughput
        more = memory.device_used_bytes - base
        table.add_row(
            Sentence("  " + each.text.in_language(lang)),
            gib(memory.device_used_bytes),
            f"{'+' if more >= 0 else '-'}{gib(abs(more))}",
            text("plan.rate", lang, speed=rate(speed.tokens_per_second)) if speed else "",
            Text(text(f"verdict.{memory.verdict}", lang), style="" if memory.verdict == "fits" else "yellow"),
        )
    return table


def _listed(sentences: Iterable[Words], lang: str) -> Entries:
    return Entries([([Text("  •")], Sentence(sentence.in_language(lang))) for sentence in sentences], gap=1)


def _reasons(reasons: tuple[Reason, ...], lang: str, *, every_rule: bool) -> Entries:
    rows: list[tuple[list[Text], Text]] = []
    in_brief = (
        [] if every_rule else [each for each in reasons if each.group == "choice" and each.outcome == "applied" and each.origin is None]
    )
    for reason in (each for each in reasons if each not in in_brief):
        group = Text("  " + text(f"group.{reason.group}", lang), style=_GROUP_STYLES[reason.group])
        sentence = Sentence(reason.sentence.in_language(lang))
        outcome = text(f"outcome.{reason.outcome}", lang)
        detail = reason.detail.in_language(lang) if reason.detail else outcome
        if reason.outcome != "applied":
            sentence.stylize("dim")
            sentence.append(f" ({detail})", style="yellow")
        elif reason.note and every_rule:
            sentence.append(f"\n{reason.note.in_language(lang)}", style="dim")
        if reason.origin:
            sentence.append(f" [{reason.origin.in_language(lang)}]", style="magenta")
        rows.append(([group, Text(reason.rule, style="cyan")], sentence))
    if in_brief:
        names = ", ".join(reason.rule for reason in in_brief)
        line = text("plan.in_brief", lang, rules=names)
        rows.append(([Text("  " + text("group.choice", lang), style=_GROUP_STYLES["choice"]), Text()], Sentence(line, style="dim")))
    return Entries(rows)


def _alternatives(alternatives: tuple[Alternative, ...], lang: str) -> Entries:
    return Entries(
        [
            (
                [Text("  " + in_language(each.label, lang)), Text(gib(each.estimate.memory.device_used_bytes), justify="right")],
                Sentence(each.reason.in_language(lang)),
            )
            for each in alternatives
        ]
    )
