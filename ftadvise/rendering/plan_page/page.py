"""The page of a plan, and the page that says why nothing fits."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ftadvise
from ftadvise.advisor.frontier import Frontier
from ftadvise.advisor.plan_types import NoPlanError, Plan
from ftadvise.estimator.estimate_types import Estimate
from ftadvise.rendering.chinese import in_language
from ftadvise.rendering.estimate_view import data_line, device_name, trained_words
from ftadvise.rendering.page_parts.elements import Child, el, words
from ftadvise.rendering.page_parts.frame import Section, Tile, page, tiles
from ftadvise.rendering.page_parts.tables import settings
from ftadvise.rendering.plan_page.frontier_map import frontier_map
from ftadvise.rendering.plan_page.memory_bar import memory_bar
from ftadvise.rendering.plan_page.sections import (
    alternatives_table,
    changes_table,
    costs,
    reason_groups,
    sensitivity_table,
    wanted_words,
)
from ftadvise.rendering.plan_page.step_time import bottleneck_words, step_time
from ftadvise.rendering.texts import text
from ftadvise.rendering.units import dollars, duration, gib, rate

MARK = "ftadvise.plan-page/1"
"""Says that ftadvise made a page, and so may replace it."""


def plan_page(plan: Plan, lang: str, *, frontier: Frontier, plan_path: Path) -> str:
    """The plan as a page of HTML.

    Args:
        frontier: of the recommended recipe, on the same machine.
        plan_path: where the plan file is, for the commands.
    """
    estimate, lengths = plan.estimate, plan.request.lengths
    verdict = estimate.memory.verdict
    header = [
        el(
            "p",
            in_language(plan.recipe.label, lang),
            " ",
            el("span", text(f"verdict.{verdict}", lang), class_=f"badge {verdict}"),
            class_="answer",
        ),
        _tiles(estimate, lang),
    ]
    notes: list[Child] = [el("li", words(warning.in_language(lang))) for warning in plan.warnings]
    notes += [el("li", words(in_language(note, lang))) for note in estimate.memory.notes]
    trained = el("p", text("trains.title", lang), text("page.colon", lang), trained_words(estimate, lang), class_="quiet")
    data = el("p", text("data.title", lang), text("page.colon", lang), data_line(lengths, plan.recipe, lang).plain) if lengths else None
    sections: list[tuple[str, list[Child]]] = [
        ("warnings", [el("ul", notes)] if notes else []),
        ("memory", memory_bar(estimate, lang)),
        ("speed", step_time(estimate, lang)),
        ("bottleneck", bottleneck_words(plan.bottleneck, lang) if plan.bottleneck else []),
        ("cost", [costs(estimate, lang), data]),
        ("alternatives", [alternatives_table(plan.alternatives, lang)] if plan.alternatives else []),
        ("wanted", wanted_words(plan.wanted, lang) if plan.wanted else []),
        ("sensitivity", [sensitivity_table(plan.sensitivity, estimate, lang)] if plan.sensitivity else []),
        ("frontier", frontier_map(frontier, plan.recipe, lang)),
        ("reasons", reason_groups(plan, lang)),
        ("recipe", [settings(plan.recipe, lang), trained]),
        ("commands", [_commands(plan_path, lang)]),
    ]
    return _page(_title(estimate, lang), header, sections, estimate, lang)


def shortfall_page(error: NoPlanError, lang: str) -> str:
    """The page when nothing fits: why, how much is missing, and what would make it fit."""
    lean = error.leanest
    header = [el("p", el("span", text("verdict.does_not_fit", lang), class_="badge does_not_fit"), " ", error.message.in_language(lang))]
    sections: list[tuple[str, list[Child]]] = [("changes", [changes_table(error.changes, lang)] if error.changes else [])]
    if lean is not None:
        sections += [("leanest", memory_bar(lean, lang)), ("recipe", [settings(lean.recipe, lang)])]
    return _page(_title(lean, lang) if lean else text("verdict.does_not_fit", lang), header, sections, lean, lang)


def _title(estimate: Estimate, lang: str) -> str:
    return text("plan.title", lang, model=estimate.model.id, device=device_name(estimate.hardware, lang))


def _page(title: str, header: Iterable[Child], sections: Iterable[tuple[str, list[Child]]], estimate: Estimate | None, lang: str) -> str:
    parts = [Section(name, text(f"page.section.{name}", lang), blocks) for name, blocks in sections]
    return page(title, header, parts, _versions(estimate, lang), mark=MARK, lang=lang)


def _tiles(estimate: Estimate, lang: str) -> Child:
    """The four figures that people ask for first, with their intervals."""
    memory, speed = estimate.memory, estimate.throughput
    cost = estimate.cost or estimate.cost_per_million_tokens
    per = "whole" if estimate.cost else "per_million"
    found = [
        Tile(
            text("memory.title" if estimate.hardware.gpus else "memory.title_cpu", lang),
            gib(memory.device_used_bytes),
            text("page.of_available", lang, available=gib(memory.available_bytes)),
        )
    ]
    if speed:
        span = text("page.span", lang, low=rate(speed.low), high=rate(speed.high))
        found.append(Tile(text("page.tokens_per_second", lang), rate(speed.tokens_per_second), span))
    if cost:
        hours = cost.hours
        span = text("page.span", lang, low=duration(3600 * hours.low), high=duration(3600 * hours.high))
        found.append(Tile(text(f"page.time.{per}", lang), duration(3600 * hours.value), span))
        if cost.usd is not None:
            span = text("page.span", lang, low=dollars(cost.usd.low), high=dollars(cost.usd.high))
            found.append(Tile(text(f"page.cost.{per}", lang), dollars(cost.usd.value), span))
    return tiles(found)


def _commands(plan_path: Path, lang: str) -> Child:
    path = shlex.quote(str(plan_path))
    lines = (
        ("run", f"ftadvise run {path}"),
        ("rehearse", f"ftadvise run {path} --rehearse"),
        ("export", f"ftadvise export {path} --to trl"),
    )
    return el(
        "dl", [el("div", el("dt", text(f"page.command.{name}", lang)), el("dd", el("code", line))) for name, line in lines], class_="lines"
    )


def _versions(estimate: Estimate | None, lang: str) -> list[Child]:
    stack: Any = estimate.stack if estimate else None
    versions = ", ".join(f"{name} {version}" for name, version in stack.versions.items()) if stack else ""
    priced = text("page.priced_for", lang, stack=stack.name, versions=versions) if stack else None
    basis = text("page.basis", lang, basis=text(f"basis.{estimate.basis}", lang)) if estimate else None
    return [
        el("p", text("page.made_by", lang, version=ftadvise.__version__), " ", priced, " ", basis),
        el("p", text("page.estimates", lang)),
    ]
