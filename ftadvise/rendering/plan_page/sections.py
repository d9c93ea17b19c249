"""The sections of the page that are tables and lists of sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from ftadvise.advisor.plan_types import Alternative, Change, Group, Plan, Reason, Variation, Wanted
from ftadvise.estimator.estimate_types import Estimate
from ftadvise.rendering.chinese import in_language
from ftadvise.rendering.cost_view import cost_lines
from ftadvise.rendering.page_parts.elements import Child, el, words
from ftadvise.rendering.page_parts.tables import Row, table
from ftadvise.rendering.texts import text
from ftadvise.rendering.units import gib, rate


def costs(estimate: Estimate, lang: str) -> Child:
    """Time, money and energy, with what they rest on."""
    lines = cost_lines(estimate, lang)
    if not lines:
        return el("p", text("speed.unknown", lang))
    return el("dl", [el("div", el("dt", head), el("dd", words(line.plain))) for head, line in lines], class_="lines")


def alternatives_table(alternatives: Sequence[Alternative], lang: str) -> Child:
    """What else was considered, and the number that rejected it."""
    rows = []
    for each in alternatives:
        memory, speed = each.estimate.memory, each.estimate.throughput
        figures = (gib(memory.device_used_bytes), rate(speed.tokens_per_second) if speed and memory.fits else "–", str(each.score))
        name: list[Child] = [in_language(each.label, lang), " ", _badge(memory.verdict, lang)]
        rows.append(Row(name, figures, each.reason.in_language(lang)))
    return _table(("recipe", "memory", "tokens_per_second", "score", "why_not"), rows, lang)


def sensitivity_table(variations: Sequence[Variation], estimate: Estimate, lang: str) -> Child:
    """What the next longer sequence, larger batch or higher rank costs, beside the plan's figures."""
    base, rows = estimate.throughput, []
    for each in variations:
        memory, speed = each.estimate.memory, each.estimate.throughput
        more = memory.device_used_bytes - estimate.memory.device_used_bytes
        faster = _percent(speed.tokens_per_second / base.tokens_per_second - 1) if speed and base else "–"
        figures = (gib(memory.device_used_bytes), _signed(more), rate(speed.tokens_per_second) if speed else "–", faster)
        rows.append(Row([each.text.in_language(lang), " ", _badge(memory.verdict, lang)], figures))
    return _table(("change", "memory", "more", "tokens_per_second", "faster"), rows, lang)


def changes_table(changes: Sequence[Change], lang: str) -> Child:
    """What would make something fit, the smallest change first."""
    rows = []
    for index, change in enumerate(changes, 1):
        estimate = change.estimate
        speed = estimate.throughput if estimate else None
        figures = (gib(estimate.memory.high_bytes) if estimate else "–", rate(speed.tokens_per_second) if speed else "–")
        rows.append(Row([str(index)], figures, change.text.in_language(lang)))
    return _table(("rank", "at_most", "tokens_per_second", "change"), rows, lang)


def wanted_words(wanted: Wanted, lang: str) -> list[Child]:
    """What the approach would need that the rules would rather have."""
    label = in_language(wanted.label, lang)
    return [el("p", text("page.wanted", lang, label=label, score=wanted.score)), changes_table(wanted.changes, lang)]


def _table(heads: Sequence[str], rows: Sequence[Row], lang: str) -> Child:
    return table([text(f"page.{head}", lang) for head in heads], rows)


def _badge(verdict: str, lang: str) -> Child:
    return el("span", text(f"verdict.{verdict}", lang), class_=f"badge {verdict}")


def _percent(share: float) -> str:
    percent = round(100 * share)
    return f"{percent:+d} %".replace("-", "−") if percent else "0 %"


def _signed(num_bytes: int) -> str:
    size = gib(abs(num_bytes))
    return size if size == "0" else ("+" if num_bytes > 0 else "−") + size


def reason_groups(plan: Plan, lang: str) -> list[Child]:
    """Must, should, choice: each with what it means, and its reasons."""
    blocks: list[Child] = []
    for group in get_args(Group):
        found = plan.reasons_in(group)
        if found:
            blocks += [
                el("h3", text(f"group.{group}", lang), " ", el("small", text(f"page.group.{group}", lang))),
                el("ul", [_reason(each, lang) for each in found], class_=f"reasons {group}"),
            ]
    return blocks


def _reason(reason: Reason, lang: str) -> Child:
    parts: list[Child] = [el("code", reason.rule), " ", el("span", words(reason.sentence.in_language(lang)))]
    if reason.outcome != "applied":
        outcome = text(f"outcome.{reason.outcome}", lang)
        parts.append(
            el("p", el("span", outcome, class_="badge tight"), " ", words(reason.detail.in_language(lang) if reason.detail else ""))
        )
    if reason.origin:
        parts.append(el("p", reason.origin.in_language(lang), class_="quiet"))
    if reason.note:
        parts.append(el("p", words(reason.note.in_language(lang))))
    if reason.comment:
        parts.append(el("p", text("rule.comment", lang), text("page.colon", lang), reason.comment.in_language(lang), class_="quiet"))
    about = [text("page.weight", lang, weight=reason.weight)] if reason.weight else []
    about += [text("page.source", lang, source=reason.source)] if reason.source else []
    if about:
        parts.append(el("p", words(" · ".join(about)), class_="quiet"))
    return el("li", parts, class_=None if reason.outcome == "applied" else "not-applied")
