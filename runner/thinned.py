"""A series of any length in a bounded number of points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Thinned(Generic[T]):
    """At most `limit` points of a series, evenly spread over it however long it becomes.

    Each point stands for `stride` neighbours, merged by `merge(earlier, later)`; when the limit is reached neighbours are merged and the
    stride doubles. Appending costs O(1) amortised.
    """

    def __init__(self, limit: int, merge: Callable[[T, T], T]) -> None:
        if limit < 2:
            raise ValueError(f"limit must be at least 2, not {limit}")
        self._limit = limit
        self._merge = merge
        self._points: list[T] = []
        self._stride = 1
        self._in_last = 0

    def append(self, point: T) -> None:
        """Add the next point."""
        if 0 < self._in_last < self._stride:
            self._points[-1] = self._merge(self._points[-1], point)
            self._in_last += 1
            return
        if len(self._points) == self._limit:
            self._halve()
            self.append(point)
            return
        self._points.append(point)
        self._in_last = 1

    def _halve(self) -> None:
        pairs = zip(self._points[::2], self._points[1::2], strict=False)
        halved = [self._merge(earlier, later) for earlier, later in pairs]
        self._in_last = 2 * self._stride
        if len(self._points) % 2:
            halved.append(self._points[-1])
            self._in_last = self._stride
        self._points, self._stride = halved, 2 * self._stride

    @property
    def points(self) -> tuple[T, ...]:
        """What is kept, in order."""
        return tuple(self._points)
