"""Runs side by side: a column for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ftadvise.profiles.printable import one_line
from ftadvise.rendering.texts import text
from ftadvise.rendering.units import duration, gib, rate
from ftadvise.runner.compare import LAST_STEPS, Comparison

_LONGEST = 40


def _loss(value: float) -> str:
    return f"{value:.4f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


_ROWS: tuple[tuple[str, Callable[[Any], str], int], ...] = (
    ("final_evaluation", _loss, -1),
    ("best_evaluation", _loss, -1),
    ("final_loss", _loss, -1),
    ("best_loss", _loss, 0),
    ("tokens_per_second", rate, 1),
    ("peak_bytes", gib, -1),
    ("predicted_peak_bytes", gib, 0),
    ("total_seconds", duration, -1),
    ("steps", _count, 0),
    ("attempts", _count, 0),
)
"""Figure, how it is written, and whether less (-1) or more (1) of it is better."""
_LOSSES = ("final_evaluation", "best_evaluation", "final_loss")


def comparison_view(comparison: Comparison, lang: str) -> RenderableType:
    """The settings that differ, then what came of them; the best figure of a row is marked where the runs may be compared."""
    models = ", ".join(dict.fromkeys(comparison.models))
    blocks: list[RenderableType] = [
        Text(one_line(text("compare.title", lang, count=len(comparison.names), models=models)), style="bold"),
        _table(comparison, lang),
    ]
    if not comparison.settings:
        blocks.append(Text(text("compare.same", lang), style="dim"))
    if not comparison.comparable_losses:
        blocks.append(Text(text("compare.incomparable", lang), style="yellow"))
    blocks.append(Text(text("compare.best", lang, count=LAST_STEPS), style="dim"))
    return Group(*blocks)


def _table(comparison: Comparison, lang: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(text("compare.settings" if comparison.settings else "compare.results", lang), overflow="fold")
    for name in comparison.names:
        table.add_column(Text(one_line(name)), justify="right", overflow="fold")
    for name, values in comparison.settings:
        table.add_row(Text(one_line(name)), *(Text(_value(value)) for value in values))
    if comparison.settings:
        table.add_section()
        table.add_row(Text(text("compare.results", lang), style="dim"))
    for name, words, better in _ROWS:
        figures = [getattr(found, name) for found in comparison.figures]
        if all(figure is None for figure in figures):
            continue
        best = None if name in _LOSSES and not comparison.comparable_losses else _best(figures, better)
        cells = [
            Text("-" if value is None else words(value) + (" *" if value == best else "  "), style="bold" if value == best else "")
            for value in figures
        ]
        table.add_row(text(f"compare.row.{name}", lang), *cells)
    return table


def _best(values: Sequence[float | None], better: int) -> float | None:
    """The best value, where there is one and not all are the same."""
    known = [value for value in values if value is not None]
    if not better or len(set(known)) < 2:
        return None
    return max(known) if better > 0 else min(known)


def _value(value: Any) -> str:
    words = "-" if value is None else ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    shown = one_line(words)
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"
