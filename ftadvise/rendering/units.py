"""Numbers as people read them; they live in the lowest room, because the training's own panel shows them too."""

from __future__ import annotations

from ftadvise.profiles.units import count, dollars, duration, gib, kwh, rate

__all__ = ["count", "dollars", "duration", "gib", "kwh", "rate"]
