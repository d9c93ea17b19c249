"""A line chart in SVG: as wide as the page while its letters keep their size, readable without colours, with words for those who hear it.

Lines are drawn in a nested SVG that is stretched to the page; everything with a shape of its own (letters, dots) stands beside it with
places in percent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ftadvise.rendering.page_parts.elements import Child, el

_HEIGHT, _UNITS = 220, 1000
_TICKS = 5

Curve = Sequence[tuple[float, float | None]]
"""(x, y); the line is broken where y is None."""


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: `look` is a class of style.css, `dots` draws a dot at each point."""

    name: str
    points: Curve
    look: str
    dots: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal line at a value to compare with."""

    name: str
    value: float
    look: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line at a moment, with a short name above it."""

    name: str
    at: float


@dataclass(frozen=True, slots=True)
class Axis:
    """What is counted, and how a value is written."""

    label: str
    words: Callable[[float], str]
    from_zero: bool = False
    base: float = 10.0
    """Round figures are 1, 2 and 5 times a power of it (10), or its own divisions (60 for time, 2 for bytes)."""
    least: float = 0.0
    """The smallest distance between two ticks, where a finer one means nothing."""


def line_chart(
    title: str, description: str, x: Axis, y: Axis, lines: Sequence[Line], levels: Sequence[Level] = (), marks: Sequence[Mark] = ()
) -> list[Child]:
    """The chart with its key under it; nothing where no line has a point.

    Args:
        description: what the chart shows, in a sentence with figures, for those who cannot see it.
    """
    drawn = [line for line in lines if any(value is not None for _, value in line.points)]
    if not drawn:
        return []
    values = [value for line in drawn for _, value in line.points if value is not None] + [level.value for level in levels]
    low_x, high_x = min(line.points[0][0] for line in drawn), max(line.points[-1][0] for line in drawn)
    y_ticks = ticks(0.0 if y.from_zero else min(values), max(values), base=y.base, least=y.least)
    scale_x, scale_y = Scale(low_x, high_x), Scale(y_ticks[0], y_ticks[-1])
    x_ticks = [tick for tick in ticks(low_x, high_x, base=x.base, least=x.least) if low_x <= tick <= high_x]
    shapes: list[Child] = [el("title", title), el("desc", description)]
    shapes += _grid(x_ticks, y_ticks, scale_x, scale_y, x, y)
    shapes += [_level(level, scale_y) for level in levels]
    shapes += [shape for mark in marks if low_x <= mark.at <= high_x for shape in _mark(mark, scale_x)]
    paths = [el("path", d=path(line.points, scale_x, scale_y), class_=f"curve {line.look}") for line in drawn]
    box = f"0 0 {_UNITS} {_UNITS}"
    shapes.append(el("svg", paths, x="0", y="0", width="100%", height=_HEIGHT, viewBox=box, preserveAspectRatio="none"))
    shapes += [dot for line in drawn if line.dots or len(line.points) == 1 for dot in _dots(line, scale_x, scale_y, x, y)]
    chart = el("svg", shapes, class_="chart", width="100%", height=_HEIGHT, role="img", aria_label=f"{title}. {description}")
    named = [(line.name, f"{line.look} dot" if line.dots else line.look) for line in drawn] + [(level.name, level.look) for level in levels]
    key = [el("span", el("i", class_=f"stroke {look}", aria_hidden="true"), name) for name, look in named]
    return [
        el("p", y.label, class_="axis"),
        el("div", chart, class_="plot"),
        el("p", x.label, class_="axis below"),
        el("p", key, class_="key"),
    ]


@dataclass(frozen=True, slots=True)
class Scale:
    """From a value to its share of the way from `low` to `high`; half of it where they are the same."""

    low: float
    high: float

    def __call__(self, value: float) -> float:
        """The share."""
        return (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5


def ticks(low: float, high: float, *, base: float = 10.0, least: float = 0.0) -> list[float]:
    """Round values from at or below `low` to at or above `high`, about five steps apart; at least two of them."""
    if high <= low:
        low, high = (low - abs(low) / 10, low + abs(low) / 10) if low else (0.0, 1.0)
    step = max(least, _round_step((high - low) / _TICKS, base))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def _round_step(step: float, base: float) -> float:
    """The smallest round step that is not below `step`."""
    if base == 60 and step > 1:  # seconds, minutes, hours, days
        steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200]
        found = next((each for each in steps if each >= step), None)
        return float(found) if found else 86400 * _round_step(step / 86400, 10)
    if base == 2:  # bytes
        return float(2 ** math.ceil(math.log2(step)))
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= step * (1 - 1e-9))


def path(points: Curve, scale_x: Scale, scale_y: Scale) -> str:
    """The curve as the commands of an SVG path in a square of 1000 units."""
    parts, begun = [], False
    for x, y in points:
        if y is not None:
            parts.append(f"{'L' if begun else 'M'}{_UNITS * scale_x(x):.1f} {_UNITS * (1 - scale_y(y)):.1f}")
        begun = y is not None
    return "".join(parts)


def _grid(x_ticks: Sequence[float], y_ticks: Sequence[float], scale_x: Scale, scale_y: Scale, x: Axis, y: Axis) -> list[Child]:
    shapes: list[Child] = []
    for tick in y_ticks:
        at = f"{100 * (1 - scale_y(tick)):.2f}%"
        shapes.append(el("line", x1="0", x2="100%", y1=at, y2=at, class_="grid"))
        shapes.append(el("text", y.words(tick), x="-8", y=at, class_="tick left"))
    for tick in x_ticks:
        share = scale_x(tick)
        anchor = "start" if share < 0.02 else "end" if share > 0.98 else "middle"
        shapes.append(el("text", x.words(tick), x=f"{100 * share:.2f}%", y=_HEIGHT + 16, class_=f"tick {anchor}"))
    return shapes


def _level(level: Level, scale: Scale) -> Child:
    at = f"{100 * (1 - scale(level.value)):.2f}%"
    return el("line", el("title", level.name), x1="0", x2="100%", y1=at, y2=at, class_=f"level {level.look}")


def _mark(mark: Mark, scale: Scale) -> list[Child]:
    at = f"{100 * scale(mark.at):.2f}%"
    anchor = "end" if scale(mark.at) > 0.9 else "start"
    line = el("line", el("title", mark.name), x1=at, x2=at, y1="0", y2="100%", class_="moment")
    return [line, el("text", mark.name, x=at, y="-6", class_=f"tick {anchor}")]


def _dots(line: Line, scale_x: Scale, scale_y: Scale, x: Axis, y: Axis) -> list[Child]:
    return [
        el(
            "circle",
            el("title", f"{line.name}: {y.words(value)} ({x.words(at)})"),
            cx=f"{100 * scale_x(at):.2f}%",
            cy=f"{100 * (1 - scale_y(value)):.2f}%",
            r="4",
            class_=f"point {line.look}",
        )
        for at, value in line.points
        if value is not None
    ]
