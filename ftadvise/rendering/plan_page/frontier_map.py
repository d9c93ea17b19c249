"""The fit frontier as a table of coloured cells: sequence length downwards, micro batch to the right."""

from __future__ import annotations

from ftadvise.advisor.frontier import Frontier
from ftadvise.estimator.estimate_types import Estimate
from ftadvise.estimator.recipe import Recipe
from ftadvise.rendering.page_parts.elements import Child, el
from ftadvise.rendering.texts import text
from ftadvise.rendering.units import gib, rate

_SHADES = 4
_SIGNS = {"fits": "", "tight": "~", "does_not_fit": "✕"}


def frontier_map(frontier: Frontier, recipe: Recipe, lang: str) -> list[Child]:
    """The map and how to read it."""
    speeds = [cell.throughput.tokens_per_second for row in frontier.rows for cell in row if cell and cell.memory.fits and cell.throughput]
    best = max(speeds, default=0.0)
    head = el(
        "tr", el("th", text("page.tokens", lang), scope="col"), [el("th", f"{micro:,}", scope="col") for micro in frontier.micro_batches]
    )
    rows = []
    for seq_len, row in zip(frontier.seq_lens, frontier.rows, strict=True):
        cells = [
            _cell(cell, best, lang, own=(seq_len, micro) == (recipe.seq_len, recipe.micro_batch))
            for micro, cell in zip(frontier.micro_batches, row, strict=True)
        ]
        rows.append(el("tr", el("th", f"{seq_len:,}", scope="row"), cells))
    table = el(
        "table",
        el("caption", text("page.micro_batch", lang)),
        el("thead", head),
        el("tbody", rows),
        class_="frontier",
    )
    key = [
        el("span", el("i", class_="mark fast4"), text("page.frontier_fits", lang)),
        el("span", el("i", "~", class_="mark tight"), text("verdict.tight", lang)),
        el("span", el("i", "✕", class_="mark no"), text("verdict.does_not_fit", lang)),
        el("span", el("i", class_="mark own"), text("page.frontier_own", lang)),
    ]
    return [el("p", text("page.frontier_how", lang)), el("div", table, class_="wide"), el("p", key, class_="key")]


def _cell(cell: Estimate | None, best: float, lang: str, *, own: bool) -> Child:
    if cell is None:
        return el("td", "–", class_="none")
    memory, speed = cell.memory, cell.throughput
    gibs = memory.high_bytes / (1 << 30)
    need = f"{gibs:,.0f}" if gibs >= 99.95 else f"{gibs:.1f}"
    verdict = text(f"verdict.{memory.verdict}", lang)
    title = f"{verdict}: {gib(memory.low_bytes)} – {gib(memory.high_bytes)}"
    if not memory.fits:
        look = "no"
    elif memory.verdict == "tight":
        look = "tight"
    else:
        share = speed.tokens_per_second / best if speed and best else 1.0
        look = f"fast{max(1, min(_SHADES, round(_SHADES * share)))}"
    figure = rate(speed.tokens_per_second) if speed and memory.fits else ""
    first = " ".join(filter(None, (_SIGNS[memory.verdict], figure))) or verdict
    return el("td", el("b", first), el("small", need), class_=f"{look} own" if own else look, title=title)
