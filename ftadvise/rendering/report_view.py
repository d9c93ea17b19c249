"""A finished run: predicted beside measured."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ftadvise.estimator.recipe import Recipe
from ftadvise.rendering.texts import text
from ftadvise.rendering.units import duration, gib, rate
from ftadvise.runner.report import Row, RunReport, comparison_rows

_GOOD_PERCENT, _FAIR_PERCENT = 5.0, 10.0


def report_view(report: RunReport, lang: str) -> RenderableType:
    """The comparison table, its definitions, speed, loss, and one answer before and after."""
    recipe = Recipe.from_dict(report.recipe, where="report")
    on_cpu = not report.hardware["gpus"]
    device = f"CPU, {report.hardware['cpu']['name']}" if on_cpu else report.hardware["gpus"][0]["name"]
    title = text("report.title", lang, label=recipe.label, model=report.model["id"], device=device)
    blocks: list[RenderableType] = [Text(title, style="bold"), _table(comparison_rows(report), lang, on_cpu=on_cpu)]
    blocks += [Text(line, style="dim") for line in _footer(report, lang)]
    if report.losses and len(report.losses) > 1:
        first, last = report.losses[0][1], report.losses[-1][1]
        if first is not None and last is not None:
            blocks.append(Text(text("report.loss", lang, first=f"{first:.2f}", last=f"{last:.2f}", steps=report.steps)))
    if report.rehearsal:
        blocks.append(Text(text("report.rehearsal", lang), style="yellow"))
    if report.answer:
        blocks += [Text(), _answers(report, lang)]
    return Group(*blocks)


def _table(rows: list[Row], lang: str, *, on_cpu: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(text("report.item", lang))
    for key in ("predicted", "measured", "error"):
        table.add_column(text(f"report.{key}", lang), justify="right")
    table.add_column("", justify="right")
    for row in rows:
        if row.name == "reserved" and on_cpu:
            continue
        name = "process memory" if row.name == "device used" and on_cpu else row.name
        if row.is_total and row.name == "total allocated":
            table.add_section()
        style = "bold" if row.is_total else None
        sizes = _size(row.predicted_bytes), _size(row.measured_bytes), _bytes(row)
        table.add_row(text(f"report.row.{name}", lang), *sizes, _percent(row), style=style)
    return table


def _size(num_bytes: int | None) -> str:
    return "-" if num_bytes is None else gib(num_bytes)


def _bytes(row: Row) -> str:
    if row.error_bytes is None:
        return "-"
    size = gib(abs(row.error_bytes))
    return size if size == "0" else ("+" if row.error_bytes > 0 else "-") + size


def _percent(row: Row) -> Text:
    error = row.error_percent
    if error is None:
        return Text("")
    style = "green" if abs(error) <= _GOOD_PERCENT else "yellow" if abs(error) <= _FAIR_PERCENT else "red"
    return Text(f"{error:+.1f} %" if abs(error) >= 0.05 else "0.0 %", style=style)


def _footer(report: RunReport, lang: str) -> list[str]:
    predicted: dict[str, Any] = report.predicted_at_measured
    lines = [report.measured["definition"]]
    phases = {key: text(f"phase.{phase}", lang) for key, phase in _phases(report).items()}
    lines.append(text("report.peak", lang, **phases, sequences=report.batch["sequences"], length=report.batch["length"]))
    speed = predicted["throughput"]
    if report.tokens_per_second and report.seconds_per_step and speed:
        lines.append(
            text(
                "report.speed",
                lang,
                speed=rate(report.tokens_per_second),
                steps=report.steps,
                step=duration(report.seconds_per_step),
                predicted=rate(speed["tokens_per_second"]),
                low=rate(speed["low"]),
                high=rate(speed["high"]),
            )
        )
    else:
        lines.append(text("report.no_speed", lang))
    return [*lines, *report.notes]


def _phases(report: RunReport) -> dict[str, str]:
    return {"measured": report.measured["peak_phase"], "predicted": report.predicted_at_measured["memory"]["peak_phase"]}


def _answers(report: RunReport, lang: str) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    answer = report.answer
    if answer is not None:
        table.add_row(text("report.prompt", lang), answer.prompt)
        table.add_row(text("report.before", lang), Text(answer.before, style="dim"))
        table.add_row(text("report.after", lang), answer.after)
    return table
