"""The two charts of report.html: loss by step, memory over time."""

from __future__ import annotations

from collections.abc import Sequence

from ftadvise.profiles.hardware import GIB
from ftadvise.rendering.page_parts.elements import Child, el
from ftadvise.rendering.report_page.chart import Axis, Level, Line, Mark, line_chart
from ftadvise.rendering.texts import text
from ftadvise.rendering.units import duration, gib
from ftadvise.runner.compare import figures, peak_bytes
from ftadvise.runner.report import RunReport
from ftadvise.runner.thinned import Thinned
from ftadvise.runner.timeline_points import Point, higher

_RAW_POINTS, _SMOOTH_POINTS = 600, 50
_FAR = 5.0
"""Times the highest use: a device so much larger than that would press the curve flat, and is named in words instead."""


def loss_chart(report: RunReport, lang: str) -> list[Child]:
    """Training loss of each step and smoothed, evaluations, attempts."""
    found = figures(report)
    raw = [(float(step), loss) for step, loss in report.losses]
    smooth, width = _smooth(raw)
    lines = [Line(text("run_page.loss.raw", lang), _thin(raw), "pale" if smooth else "first")]
    if smooth:
        lines.append(Line(text("run_page.loss.smooth", lang, count=width), smooth, "first"))
    evaluations = [(float(step), loss) for step, loss in report.evaluations]
    if evaluations:
        lines.append(Line(text("run_page.loss.evaluation", lang), evaluations, "second", dots=True))
    marks = [Mark(name, float(step)) for name, step in _later_attempts(report, lang)]
    x = Axis(text("run_page.loss.x", lang), lambda step: f"{step:,.0f}", least=1.0)
    y = Axis(text("run_page.loss.y", lang), lambda loss: f"{loss:.6g}")
    words = []
    if found.first_loss is not None and found.final_loss is not None:
        first, last = f"{found.first_loss:.3f}", f"{found.final_loss:.3f}"
        words.append(text("run_page.loss.description", lang, first=first, last=last, steps=f"{report.steps:,}"))
    if found.best_evaluation is not None and found.final_evaluation is not None:
        first = next(f"{loss:.3f}" for _, loss in report.evaluations if loss is not None)
        values = {
            "last": f"{found.final_evaluation:.3f}",
            "best": f"{found.best_evaluation:.3f}",
            "step": f"{found.best_evaluation_step:,}",
        }
        words.append(text("run_page.loss.description_eval", lang, first=first, **values))
    lacking = sum(loss is None for _, loss in report.losses)
    note = el("p", text("run_page.loss.lacking", lang, count=f"{lacking:,}"), class_="quiet") if lacking else None
    chart = line_chart(text("run_page.loss.title", lang), " ".join(words), x, y, lines, marks=marks)
    return [*chart, note] if chart else []


def memory_chart(report: RunReport, lang: str) -> list[Child]:
    """Memory in use over time beside what was predicted and what the device has."""
    thinned: Thinned[Point] = Thinned(_RAW_POINTS, higher)
    for point in report.timeline:
        thinned.append(point)
    points = [(seconds, None if size is None else float(size)) for _, seconds, size in thinned.points]
    highest = max((size for _, size in points if size is not None), default=None)
    if highest is None:
        return []
    on_gpu = bool(report.hardware["gpus"])
    device = report.hardware["gpus"][0]["memory_bytes"] if on_gpu else report.hardware["ram_bytes"]
    predicted = report.predicted_at_measured["memory"]["device_used_bytes"]
    far = device > _FAR * max(highest, predicted or 0)
    levels = (
        [] if predicted is None else [Level(text("run_page.timeline.predicted", lang, size=gib(predicted)), float(predicted), "predicted")]
    )
    if not far:
        levels.append(Level(text("run_page.timeline.device", lang, size=gib(device)), float(device), "device"))
    line = Line(text("run_page.timeline.used", lang, size=gib(highest)), points, "first")
    starts = (
        (name, next((seconds for at, seconds, _ in report.timeline if at >= step), None)) for name, step in _later_attempts(report, lang)
    )
    marks = [Mark(name, seconds) for name, seconds in starts if seconds is not None]
    x = Axis(text("run_page.timeline.x", lang), _clock, base=60)
    y = Axis(text("run_page.timeline.y" if on_gpu else "run_page.timeline.y_cpu", lang), _size, from_zero=True, base=2)
    sizes = {"most": gib(peak_bytes(report) or highest), "predicted": "–" if predicted is None else gib(predicted), "device": gib(device)}
    description = text("run_page.timeline.description", lang, **sizes)
    notes = [text("run_page.timeline.far", lang, size=gib(device))] if far else []
    notes += [] if on_gpu else [text("run_page.timeline.cpu", lang)]
    chart = line_chart(text("run_page.timeline.title", lang), description, x, y, [line], levels, marks)
    return [*chart, el("p", " ".join(notes), class_="quiet") if notes else None]


def _later_attempts(report: RunReport, lang: str) -> list[tuple[str, int]]:
    """Name and first step of each attempt but the first; of several that began at the same step the last, which got further."""
    numbers = {each["from_step"]: each["number"] for each in report.attempts[1:]}
    return [(text("run_page.attempt", lang, number=number), step) for step, number in numbers.items()]


def _thin(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    """Every point of a short series; of a long one the means of neighbours, gaps kept."""
    if len(points) <= _RAW_POINTS:
        return list(points)
    thinned: Thinned[tuple[float, float, int]] = Thinned(_RAW_POINTS, _add)
    for step, loss in points:
        thinned.append((step, loss or 0.0, 0 if loss is None else 1))
    return [(step, total / count if count else None) for step, total, count in thinned.points]


def _smooth(points: Sequence[tuple[float, float | None]]) -> tuple[list[tuple[float, float | None]], int]:
    """Means of so many neighbours each, at the middle of them; nothing where there are too few to need it."""
    width = -(-len(points) // _SMOOTH_POINTS)
    if width < 2:
        return [], width
    found: list[tuple[float, float | None]] = []
    for start in range(0, len(points), width):
        part = [(step, loss) for step, loss in points[start : start + width] if loss is not None]
        if part:
            found.append((sum(step for step, _ in part) / len(part), sum(loss for _, loss in part) / len(part)))
    return found, width


def _add(earlier: tuple[float, float, int], later: tuple[float, float, int]) -> tuple[float, float, int]:
    return later[0], earlier[1] + later[1], earlier[2] + later[2]


def _clock(seconds: float) -> str:
    return duration(seconds).replace(".0 ", " ") if seconds else "0"


def _size(num_bytes: float) -> str:
    """A round size: "16 GiB", "512 MiB"."""
    return f"{num_bytes / GIB:g} GiB" if num_bytes >= GIB else f"{num_bytes / (1 << 20):g} MiB" if num_bytes else "0"
