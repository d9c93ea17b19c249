"""The page of a finished run."""

from __future__ import annotations

from pathlib import Path

import ftadvise
from ftadvise.estimator.plan_file import write_text_atomically
from ftadvise.rendering.page_parts.elements import Child, el
from ftadvise.rendering.page_parts.frame import Section, Tile, page, tiles
from ftadvise.rendering.page_parts.tables import settings
from ftadvise.rendering.report_page.curves import loss_chart, memory_chart
from ftadvise.rendering.report_page.sections import answer, attempts, compared, data, machine, ranks, speed
from ftadvise.rendering.report_view import report_title
from ftadvise.rendering.texts import text
from ftadvise.rendering.units import duration, gib, rate
from ftadvise.runner.compare import figures
from ftadvise.runner.report import RunReport, recipe_of

MARK = "ftadvise.report-page/1"
"""Says that ftadvise made a page, and so may replace it."""
PAGE_NAME = "report.html"


def write_report_page(report: RunReport, path: Path, lang: str = "en") -> None:
    """Write the page of a run; the file is there completely or not at all.

    Raises:
        InputError: the folder is missing or not writable.
    """
    write_text_atomically(path, report_page(report, lang))


def report_page(report: RunReport, lang: str) -> str:
    """The run as a page of HTML."""
    recipe = recipe_of(report)
    contents: dict[str, list[Child]] = {
        "attempts": attempts(report, lang),
        "loss": loss_chart(report, lang),
        "timeline": memory_chart(report, lang),
        "compared": compared(report, lang),
        "ranks": ranks(report, lang),
        "speed": speed(report, lang),
        "answer": answer(report, lang),
        "recipe": [settings(recipe, lang)],
        "data": [data(report, lang)],
        "machine": [machine(report, recipe, lang)],
    }
    sections = [Section(name, text(f"run_page.section.{name}", lang), blocks) for name, blocks in contents.items()]
    rehearsal = el("p", el("span", text("report.rehearsal", lang), class_="badge tight")) if report.rehearsal else None
    when = el("p", text("run_page.finished", lang, when=report.created), class_="quiet")
    footer = [el("p", text("run_page.made_by", lang, version=ftadvise.__version__))]
    return page(report_title(report, lang), [rehearsal, _tiles(report, lang), when], sections, footer, mark=MARK, lang=lang)


def _tiles(report: RunReport, lang: str) -> Child:
    found, expected = figures(report), report.predicted_at_measured.get("throughput")
    shown = []
    if found.peak_bytes is not None:
        predicted = "–" if found.predicted_peak_bytes is None else gib(found.predicted_peak_bytes)
        shown.append(
            Tile(text("run_page.tile.memory", lang), gib(found.peak_bytes), text("run_page.tile.memory_below", lang, size=predicted))
        )
    if found.tokens_per_second is not None:
        values = (
            {}
            if not expected
            else {"speed": rate(expected["tokens_per_second"]), "low": rate(expected["low"]), "high": rate(expected["high"])}
        )
        below = text("run_page.tile.speed_below", lang, **values) if values else ""
        shown.append(Tile(text("run_page.tile.speed", lang), rate(found.tokens_per_second), below))
    if found.final_loss is not None and found.first_loss is not None:
        below = text("run_page.tile.loss_below", lang, first=f"{found.first_loss:.3f}", count=found.final_loss_steps)
        shown.append(Tile(text("run_page.tile.loss", lang), f"{found.final_loss:.3f}", below))
    if found.final_evaluation is not None and found.best_evaluation is not None:
        below = text("run_page.tile.evaluation_below", lang, loss=f"{found.best_evaluation:.3f}", step=f"{found.best_evaluation_step:,}")
        shown.append(Tile(text("run_page.tile.evaluation", lang), f"{found.final_evaluation:.3f}", below))
    below = text("run_page.tile.time_below", lang, steps=f"{report.steps:,}")
    shown.append(Tile(text("run_page.tile.time", lang), duration(report.total_seconds), below))
    return tiles(shown)
