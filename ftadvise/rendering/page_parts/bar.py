"""A bar of segments with a legend: SVG with lengths in percent, so that it is as wide as the page and its letters keep their size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ftadvise.rendering.page_parts.elements import Child, el

_HEIGHT, _LETTERED_PERCENT = 40, 3.5


class Segment(NamedTuple):
    """One part: words and figure for the legend, `letter` for the bar, `color` the name of a class of style.css, `share` of the whole."""

    name: str
    figure: str
    letter: str
    color: str
    share: float


def bar(segments: Sequence[Segment], label: str, *marks: Child) -> Child:
    """The segments from left to right; shares are of the width, and `marks` are drawn over them. `label` is what is read aloud."""
    shapes: list[Child] = [el("rect", x="0", y="0", width="100%", height=_HEIGHT, class_="track")]
    start = 0.0
    for segment in segments:
        width = min(100 * segment.share, 100 - start)
        if width <= 0:
            continue
        title = el("title", f"{segment.name}: {segment.figure}")
        shapes.append(el("rect", title, x=f"{start:.3f}%", y="0", width=f"{width:.3f}%", height=_HEIGHT, class_=f"segment {segment.color}"))
        if width >= _LETTERED_PERCENT:
            middle = f"{start + width / 2:.3f}%"
            shapes.append(el("text", segment.letter, x=middle, y=_HEIGHT / 2, class_=f"letter on-{segment.color}"))
        start += width
    return el("svg", el("title", label), shapes, marks, class_="bar", width="100%", height=_HEIGHT + 14, role="img", aria_label=label)


def gone(start: float, end: float) -> Child:
    """What of the width (shares) is not to be had; nothing where the end is before the start."""
    return _stretch(start, end, y=0, height=_HEIGHT, look="gone")


def over(start: float, end: float) -> Child:
    """A strip along the foot of what is too much; nothing where the end is before the start."""
    return _stretch(start, end, y=_HEIGHT - 6, height=6, look="over")


def _stretch(start: float, end: float, *, y: float, height: float, look: str) -> Child:
    if end <= start:
        return None
    return el("rect", x=f"{100 * start:.3f}%", y=y, width=f"{100 * (end - start):.3f}%", height=height, class_=look)


def limit(at: float) -> Child:
    """A line across the bar."""
    x = f"{100 * at:.3f}%"
    return el("line", x1=x, x2=x, y1="0", y2=_HEIGHT + 6, class_="limit")


def interval(low: float, high: float) -> list[Child]:
    """A bracket under the bar."""
    left, right, y = f"{100 * low:.3f}%", f"{100 * high:.3f}%", _HEIGHT + 7
    ends: list[Child] = [el("line", x1=x, x2=x, y1=y - 5, y2=y + 5, class_="interval") for x in (left, right)]
    return [el("line", x1=left, x2=right, y1=y, y2=y, class_="interval"), *ends]


def legend(segments: Sequence[Segment]) -> Child:
    """What the segments are, with their figures."""
    items = [
        el(
            "li",
            el("span", each.letter, class_=f"swatch {each.color} on-{each.color}", aria_hidden="true"),
            el("span", each.name),
            el("b", each.figure),
        )
        for each in segments
    ]
    return el("ul", items, class_="legend")
