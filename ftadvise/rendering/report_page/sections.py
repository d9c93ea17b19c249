"""The sections of report.html that are tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftadvise.estimator.recipe import Recipe
from ftadvise.rendering.chinese import in_language
from ftadvise.rendering.page_parts.bar import Segment, bar
from ftadvise.rendering.page_parts.elements import Child, el, words
from ftadvise.rendering.page_parts.tables import Row, boxes_of_pairs, table, value_words
from ftadvise.rendering.report_view import (
    FAIR_PERCENT,
    GOOD_PERCENT,
    changes_words,
    error_words,
    peak_words,
    row_name,
    signed,
    size_words,
    status_words,
)
from ftadvise.rendering.texts import text
from ftadvise.rendering.units import duration, gib, rate
from ftadvise.runner.report import Row as Compared
from ftadvise.runner.report import RunReport, comparison_rows, rank_rows

_LETTERS = {
    "weights": ("W", "c1"),
    "quantisation constants": ("Q", "c2"),
    "adapters + optimizer": ("A", "c3"),
    "gradients": ("G", "c4"),
    "activations": ("V", "c6"),
    "loss": ("L", "c7"),
    "workspace": ("T", "c8"),
}


def compared(report: RunReport, lang: str) -> list[Child]:
    """Two bars of the components at the peak, predicted and measured, and the table of all figures."""
    rows, on_cpu = comparison_rows(report), not report.hardware["gpus"]
    parts = [row for row in rows if not row.is_total]
    total = next(row for row in rows if row.name == "total allocated")
    scale = max(total.predicted_bytes or 0, total.measured_bytes or 0, 1)
    blocks: list[Child] = []
    for key in ("predicted", "measured"):
        sizes = {row.name: getattr(row, f"{key}_bytes") or 0 for row in parts}
        segments = [Segment(text(f"report.row.{name}", lang), gib(size), *_LETTERS[name], size / scale) for name, size in sizes.items()]
        label = text(f"run_page.bar.{key}", lang, size=gib(getattr(total, f"{key}_bytes") or 0))
        blocks += [el("p", label, class_="axis"), bar(segments, label)]
    heads = [text(f"report.{key}", lang) for key in ("item", "predicted", "measured", "error")] + ["%"]
    lines = [_line(row, lang, on_cpu=on_cpu) for row in rows if not (row.name == "reserved" and on_cpu)]
    blocks.append(table(heads, lines))
    blocks += [el("p", words(in_language(line, lang)), class_="quiet") for line in (*peak_words(report, lang), *report.notes)]
    return blocks


def ranks(report: RunReport, lang: str) -> list[Child]:
    """The totals of each process."""
    if not report.ranks:
        return []
    on_cpu = not report.hardware["gpus"]
    wanted = [row.name for row in comparison_rows(report) if row.is_total and not (on_cpu and row.name == "reserved")]
    heads = [text("run_page.rank", lang), *(row_name(name, lang, on_cpu=on_cpu) for name in wanted)]
    lines = []
    for rank, host, rows in rank_rows(report):
        found = {row.name: row for row in rows}
        cells = [el("span", size_words(found[name].measured_bytes), " ", _badge(found[name])) for name in wanted]
        lines.append(Row([text("run_page.rank.name", lang, rank=rank, host=host)], cells))
    expected = {row.name: size_words(row.predicted_bytes) for row in comparison_rows(report)}
    lines.append(Row([text("report.predicted", lang)], [expected[name] for name in wanted]))
    return [table(heads, lines)]


def speed(report: RunReport, lang: str) -> list[Child]:
    """Tokens per second and seconds per step, beside their prediction."""
    found = report.predicted_at_measured.get("throughput")
    if not (report.tokens_per_second and report.seconds_per_step):
        return [el("p", text("report.no_speed", lang))]
    heads = [
        text("run_page.speed.head", lang),
        text("report.predicted", lang),
        text("run_page.interval", lang),
        text("report.measured", lang),
        "",
    ]
    measured, step = rate(report.tokens_per_second), duration(report.seconds_per_step)
    if not found:
        return [table(heads, [Row([text("run_page.speed.tokens", lang)], ["–", "–", measured])])]
    inside = found["low"] <= report.tokens_per_second <= found["high"]
    verdict = el("span", text(f"run_page.speed.{'within' if inside else 'outside'}", lang), class_=f"badge {'fits' if inside else 'tight'}")
    interval = f"{rate(found['low'])} – {rate(found['high'])}"
    rows = [
        Row([text("run_page.speed.tokens", lang)], [rate(found["tokens_per_second"]), interval, measured, verdict]),
        Row([text("run_page.speed.step", lang)], [duration(found["seconds_per_step"]), "", step, ""]),
    ]
    return [table(heads, rows)]


def attempts(report: RunReport, lang: str) -> list[Child]:
    """What was tried, where the run did not get through at once."""
    if len(report.attempts) < 2:
        return []
    heads = [text(f"run_page.attempt.{key}", lang) for key in ("head", "status", "steps", "why")]
    rows = []
    for each in report.attempts:
        look = "fits" if each["status"] == "done" else "tight"
        status = el("span", status_words(each["status"], lang), class_=f"badge {look}")
        rows.append(Row([str(each["number"])], [status, f"{each['from_step']:,} – {each['to_step']:,}"], attempt_words(each, lang)))
    return [table(heads, rows)]


def attempt_words(attempt: Mapping[str, Any], lang: str) -> str:
    """What an attempt changed, and what came of it."""
    parts = [changes_words(attempt, lang), in_language(attempt.get("message", ""), lang)]
    return "; ".join(part for part in parts if part)


def answer(report: RunReport, lang: str) -> list[Child]:
    """The same question before and after."""
    found = report.answer
    if found is None:
        return []
    pairs = (("prompt", found.prompt), ("before", found.before), ("after", found.after))
    lines = [el("div", el("dt", text(f"report.{name}", lang)), el("dd", said or "–")) for name, said in pairs]
    return [el("dl", lines, class_="lines said")]


def data(report: RunReport, lang: str) -> Child:
    """Where the rows came from, how many, how long; the fingerprint."""
    found, source = report.data, ("path", "sha256", "format")
    tokens = ("mean", "p50", "p95", "max", "total")
    counts = [name for name, value in found.items() if isinstance(value, int) and name not in tokens]
    groups = (
        ("source", [name for name in source if name in found]),
        ("rows", counts),
        ("tokens", [name for name in tokens if name in found]),
    )
    return boxes_of_pairs(
        (text(f"run_page.data.{key}", lang), [(name, value_words(found[name], lang)) for name in names]) for key, names in groups
    )


def machine(report: RunReport, recipe: Recipe, lang: str) -> Child:
    """Hardware, versions, and what identifies the run."""
    hardware = report.hardware
    pairs = [(f"GPU {number}", f"{gpu['name']}, {gib(gpu['memory_bytes'])}") for number, gpu in enumerate(hardware["gpus"])]
    pairs += [("CPU", hardware["cpu"]["name"]), ("RAM", gib(hardware["ram_bytes"]))]
    run = [("model", str(report.model["id"])), ("weights", str(report.model.get("weights", "–"))), ("seed", str(recipe.seed))]
    run += [("saved", report.saved or "–"), ("resumed_from_step", f"{report.resumed_from_step:,}")]
    groups = (("run", run), ("hardware", pairs), ("versions", list(report.versions.items())))
    return boxes_of_pairs((text(f"run_page.machine.{key}", lang), group) for key, group in groups)


def _line(row: Compared, lang: str, *, on_cpu: bool) -> Row:
    letter, color = _LETTERS.get(row.name, ("", ""))
    swatch = el("span", letter, class_=f"swatch inline {color} on-{color}", aria_hidden="true") if letter else None
    name = el("strong", row_name(row.name, lang, on_cpu=on_cpu)) if row.is_total else row_name(row.name, lang, on_cpu=on_cpu)
    return Row([swatch, name], [size_words(row.predicted_bytes), size_words(row.measured_bytes), signed(row), _badge(row)])


def _badge(row: Compared) -> Child:
    error = row.error_percent
    if error is None:
        return None
    look = "fits" if abs(error) <= GOOD_PERCENT else "tight" if abs(error) <= FAIR_PERCENT else "does_not_fit"
    return el("span", error_words(error), class_=f"badge {look}") if row.is_total else error_words(error)
