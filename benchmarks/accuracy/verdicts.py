"""Whether the verdict is right where only success or out-of-memory was published."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.accuracy.case import Verdict
from benchmarks.accuracy.predict import verdict_of

TIGHT = 0.05


@dataclass(frozen=True, slots=True)
class Judged:
    """One run with what was said about each of its recipes."""

    case: Verdict
    verdicts: tuple[str, ...]
    device_used_bytes: tuple[int, ...]
    available_bytes: int

    @property
    def right(self) -> bool:
        """Every answer agrees with what happened; "tight" agrees with both within 5 % of the card."""
        return all(self._agrees(word, used) for word, used in zip(self.verdicts, self.device_used_bytes, strict=True))

    def _agrees(self, word: str, used: int) -> bool:
        if word == "tight":
            return abs(used / self.available_bytes - 1) <= TIGHT
        return (word == "fits") == self.case.fits


def judge(case: Verdict) -> Judged:
    """Ask for a verdict on every recipe the open settings allow."""
    answers = [verdict_of(case, recipe) for recipe in case.recipes]
    return Judged(case, tuple(word for word, _, _ in answers), tuple(used for _, used, _ in answers), answers[0][2])
