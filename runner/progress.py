"""What is known of a training while it runs: losses, speed, time left, memory. Pure: no torch, no screen."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from ftadvise.runner.thinned import Thinned

_SMOOTHING = 0.9
"""Weight of what was before in the smoothed loss (exponential mean, corrected for its start as Adam's moments are)."""
_WINDOW = 50
"""Steps over which speed and time left are taken."""
_SPARKS = 32


@dataclass(slots=True)
class Progress:
    """The figures that the panel and the plain lines show. Losses are per token in nats; seconds are wall-clock."""

    total_steps: int
    step: int = 0
    last_loss: float | None = None
    learning_rate: float | None = None
    bytes_in_use: int | None = None
    most_bytes: int | None = None
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    evaluating: int | None = None
    """Batches of the evaluation under way."""
    first_loss: float | None = None
    _losses: Thinned[tuple[float, int]] = field(default_factory=lambda: Thinned(_SPARKS, _sum))
    _smooth: float = 0.0
    _weight: float = 0.0
    _ends: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_WINDOW + 1))
    _work: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    def starts(self, step: int, now: float) -> None:
        """Training (or the rest of it) begins after `step` steps, at `now` seconds of any clock."""
        self.step = step
        self._ends.append((step, now))

    def ends_step(self, step: int, now: float, *, bytes_in_use: int | None = None) -> None:
        """A step is done."""
        self.step = step
        self._ends.append((step, now))
        self.uses(bytes_in_use)

    def uses(self, bytes_in_use: int | None) -> None:
        """Memory that is in use now."""
        if bytes_in_use is not None:
            self.bytes_in_use = bytes_in_use
            self.most_bytes = max(self.most_bytes or 0, bytes_in_use)

    def works(self, tokens: int, seconds: float) -> None:
        """A step of so many padded tokens (of all devices) took so long."""
        self._work.append((tokens, seconds))

    def loses(self, loss: float, learning_rate: float | None) -> None:
        """The loss of the last step; one that is not a number is shown, but not averaged."""
        self.last_loss, self.learning_rate = loss, learning_rate
        if not math.isfinite(loss):
            return
        self.first_loss = loss if self.first_loss is None else self.first_loss
        self._smooth = _SMOOTHING * self._smooth + (1 - _SMOOTHING) * loss
        self._weight = _SMOOTHING * self._weight + (1 - _SMOOTHING)
        self._losses.append((loss, 1))

    def evaluates(self, step: int, loss: float) -> None:
        """An evaluation is done."""
        self.evaluating = None
        self.evaluations.append((step, loss))

    @property
    def smooth_loss(self) -> float | None:
        """The mean loss of roughly the last ten steps; None before the first."""
        return self._smooth / self._weight if self._weight else None

    @property
    def loss_curve(self) -> tuple[float, ...]:
        """The losses so far in at most 32 means of neighbours."""
        return tuple(total / count for total, count in self._losses.points)

    @property
    def best_evaluation(self) -> tuple[int, float] | None:
        """(step, loss) of the lowest evaluation so far."""
        finite = [each for each in self.evaluations if math.isfinite(each[1])]
        return min(finite, key=lambda each: each[1], default=None)

    @property
    def tokens_per_second(self) -> float | None:
        """Padded tokens per second of the last steps; None before the first."""
        seconds = sum(each[1] for each in self._work)
        return sum(each[0] for each in self._work) / seconds if seconds else None

    @property
    def seconds_per_step(self) -> float | None:
        """Wall-clock seconds from step to step, evaluations and checkpoints included; None before the first."""
        (first, began), (last, ended) = self._ends[0], self._ends[-1]
        return (ended - began) / (last - first) if last > first else None

    @property
    def seconds_left(self) -> float | None:
        """Until the last step; None where it is not known."""
        pace = self.seconds_per_step
        return None if pace is None else max(0, self.total_steps - self.step) * pace


def _sum(earlier: tuple[float, int], later: tuple[float, int]) -> tuple[float, int]:
    return earlier[0] + later[0], earlier[1] + later[1]
