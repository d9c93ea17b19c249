"""The points of a run's memory timeline: read back, and joined over its attempts. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ftadvise.runner.thinned import Thinned

Point = tuple[int, float, int | None]
"""(optimizer step, seconds since training began, bytes in use on the device)."""
MAX_POINTS = 2000


def read_timeline(file: Path) -> tuple[Point, ...]:
    """The points that a recorder wrote to `file`; none where there is no readable file (they are worth no error)."""
    try:
        points = json.loads(file.read_text(encoding="utf-8"))
        return tuple((int(step), float(seconds), None if size is None else int(size)) for step, seconds, size in points)
    except (OSError, ValueError, TypeError, RecursionError):
        return ()


def join_timelines(timelines: Iterable[Iterable[Point]]) -> tuple[Point, ...]:
    """One timeline from those of the attempts, in order: seconds add up, and steps that a later attempt trained again count once."""
    joined: list[Point] = []
    for timeline in timelines:
        points = list(timeline)
        if not points:
            continue
        joined = [point for point in joined if point[0] < points[0][0]] if joined and points[0][0] <= joined[-1][0] else joined
        before = joined[-1][1] if joined else 0.0
        joined += [(step, round(before + seconds, 3), size) for step, seconds, size in points]
    thinned: Thinned[Point] = Thinned(MAX_POINTS, higher)
    for point in joined:
        thinned.append(point)
    return thinned.points


def higher(earlier: Point, later: Point) -> Point:
    """Two neighbours as one: when the later one was, and the more of both, so that no peak is lost."""
    sizes = [size for size in (earlier[2], later[2]) if size is not None]
    return later[0], later[1], max(sizes, default=None)
