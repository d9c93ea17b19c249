"""A finished run: predicted beside measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ftadvise.profiles.printable import one_line, printable
from ftadvise.rendering.chinese import in_language
from ftadvise.rendering.texts import text, texts_of
from ftadvise.rendering.units import duration, gib, rate
from ftadvise.runner.compare import figures
from ftadvise.runner.report import Row, RunReport, comparison_rows, rank_rows, recipe_of

GOOD_PERCENT, FAIR_PERCENT = 5.0, 10.0


def report_view(report: RunReport, lang: str) -> RenderableType:
    """The comparison table, its definitions, speed, loss, what happened on the way, and one answer before and after."""
    on_cpu = not report.hardware["gpus"]
    blocks: list[RenderableType] = [
        Text(report_title(report, lang), style="bold"),
        _table(comparison_rows(report), lang, on_cpu=on_cpu),
        *(
            Text(in_language(printable(line), lang), style="dim")
            for line in (*peak_words(report, lang), *_speed(report, lang), *report.notes)
        ),
    ]
    if report.ranks:
        blocks += [Text(), Text(text("report.ranks", lang), style="bold"), _ranks(report, lang, on_cpu=on_cpu)]
    blocks += [Text(line) for line in _losses(report, lang)]
    blocks += [Text(line, style="yellow") for line in attempt_lines(report, lang)]
    if report.rehearsal:
        blocks.append(Text(text("report.rehearsal", lang), style="yellow"))
    if report.answer:
        blocks += [Text(), _answers(report, lang)]
    return Group(*blocks)


def report_title(report: RunReport, lang: str) -> str:
    """What was trained how, on what."""
    gpus = report.hardware["gpus"]
    device = f"CPU, {report.hardware['cpu']['name']}" if not gpus else gpus[0]["name"]
    if gpus and len(report.ranks) > 1:
        device = f"{len(report.ranks)} x {device}"
    label = in_language(recipe_of(report).label, lang)
    return one_line(text("report.title", lang, label=label, model=report.model["id"], device=device))


def row_name(name: str, lang: str, *, on_cpu: bool) -> str:
    """The words for a row; without a GPU, what the device uses is the process's memory."""
    return text(f"report.row.{'process memory' if name == 'device used' and on_cpu else name}", lang)


def size_words(num_bytes: int | None) -> str:
    """Bytes, or a dash."""
    return "-" if num_bytes is None else gib(num_bytes)


def signed(row: Row) -> str:
    """Predicted minus measured, with its sign."""
    if row.error_bytes is None:
        return "-"
    size = gib(abs(row.error_bytes))
    return size if size == "0" else ("+" if row.error_bytes > 0 else "-") + size


def error_words(percent: float) -> str:
    """An error as a share of what was measured."""
    if abs(percent) >= 1000:
        return f"{percent:+,.0f} %"
    return f"{percent:+.1f} %" if abs(percent) >= 0.05 else "0.0 %"


def peak_words(report: RunReport, lang: str) -> list[str]:
    """How the memory was measured, when its peak was, and what the whole run took at most."""
    phases = {"measured": report.measured["peak_phase"], "predicted": report.predicted_at_measured["memory"]["peak_phase"]}
    words = {key: text(f"phase.{phase}", lang) for key, phase in phases.items()}
    lines = [report.measured["definition"]]
    lines.append(text("report.peak", lang, **words, sequences=report.batch["sequences"], length=report.batch["length"]))
    named = {"allocated_bytes": "total allocated", "reserved_bytes": "reserved", "device_used_bytes": "device used"}
    on_cpu, peak = not report.hardware["gpus"], report.training_peak or {}
    found = [f"{row_name(name, lang, on_cpu=on_cpu)} {gib(peak[key])}" for key, name in named.items() if peak.get(key) is not None]
    if found:
        lines.append(text("report.whole_run", lang, figures=", ".join(found)))
    return lines


def attempt_lines(report: RunReport, lang: str) -> list[str]:
    """A line for each attempt, where there was more than one."""
    if len(report.attempts) < 2:
        return []
    lines = []
    for each in report.attempts:
        parts = [changes_words(each, lang), in_language(each.get("message", ""), lang) or status_words(each["status"], lang)]
        words = ("; " if lang == "en" else "；").join(part for part in parts if part)
        lines.append(
            one_line(text("report.attempt", lang, number=each["number"], first=each["from_step"], last=each["to_step"], words=words))
        )
    return lines


def status_words(status: str, lang: str) -> str:
    """The words for the outcome of an attempt; an unknown one as it is."""
    known = f"report.status.{status}" in texts_of("texts.yaml")
    return text(f"report.status.{status}", lang) if known else one_line(status)


def changes_words(attempt: Mapping[str, Any], lang: str) -> str:
    """What an attempt changed in the recipe: "micro_batch 4 → 2"; empty for nothing."""
    return (", " if lang == "en" else "，").join(f"{name} {old} → {new}" for name, (old, new) in attempt.get("changes", {}).items())


def _table(rows: list[Row], lang: str, *, on_cpu: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(text("report.item", lang))
    for key in ("predicted", "measured", "error"):
        table.add_column(text(f"report.{key}", lang), justify="right")
    table.add_column("", justify="right")
    for row in rows:
        if row.name == "reserved" and on_cpu:
            continue
        if row.is_total and row.name == "total allocated":
            table.add_section()
        sizes = size_words(row.predicted_bytes), size_words(row.measured_bytes), signed(row)
        table.add_row(row_name(row.name, lang, on_cpu=on_cpu), *sizes, _percent(row), style="bold" if row.is_total else None)
    return table


def _ranks(report: RunReport, lang: str, *, on_cpu: bool) -> Table:
    """The measured totals of each process with their errors, and the prediction, which is the same for all."""
    totals = [row for row in comparison_rows(report) if row.is_total and not (on_cpu and row.name == "reserved")]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(text("report.rank", lang))
    table.add_column(text("report.host", lang))
    for row in totals:
        table.add_column(row_name(row.name, lang, on_cpu=on_cpu), justify="right")
    for rank, host, rows in rank_rows(report):
        found = {row.name: row for row in rows}
        cells = [Text.assemble(size_words(found[row.name].measured_bytes), "  ", _percent(found[row.name])) for row in totals]
        table.add_row(str(rank), Text(one_line(host)), *cells)
    table.add_section()
    table.add_row(text("report.predicted", lang), "", *(size_words(row.predicted_bytes) for row in totals))
    return table


def _percent(row: Row) -> Text:
    error = row.error_percent
    if error is None:
        return Text("")
    return Text(error_words(error), style="green" if abs(error) <= GOOD_PERCENT else "yellow" if abs(error) <= FAIR_PERCENT else "red")


def _speed(report: RunReport, lang: str) -> list[str]:
    speed: dict[str, Any] | None = report.predicted_at_measured.get("throughput")
    if not (report.tokens_per_second and report.seconds_per_step and speed):
        return [text("report.no_speed", lang)]
    values = {name: rate(speed[key]) for name, key in (("predicted", "tokens_per_second"), ("low", "low"), ("high", "high"))}
    step = duration(report.seconds_per_step)
    return [text("report.speed", lang, speed=rate(report.tokens_per_second), steps=report.steps, step=step, **values)]


def _losses(report: RunReport, lang: str) -> list[str]:
    lines, found = [], figures(report)
    if len(report.losses) > 1 and found.first_loss is not None and found.final_loss is not None:
        line = text("report.loss", lang, first=f"{found.first_loss:.2f}", last=f"{found.final_loss:.2f}", steps=report.steps)
        lines.append(line + (text("report.loss_mean", lang, count=found.final_loss_steps) if found.final_loss_steps > 1 else ""))
    if found.final_evaluation is not None and found.best_evaluation is not None:
        values = {"last": f"{found.final_evaluation:.3f}", "best": f"{found.best_evaluation:.3f}", "step": found.best_evaluation_step}
        lines.append(text("report.evaluation", lang, count=len(report.evaluations), **values))
    return lines


def _answers(report: RunReport, lang: str) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    answer = report.answer
    if answer is not None:
        table.add_row(text("report.prompt", lang), Text(printable(answer.prompt)))
        table.add_row(text("report.before", lang), Text(printable(answer.before), style="dim"))
        table.add_row(text("report.after", lang), Text(printable(answer.after)))
    return table
