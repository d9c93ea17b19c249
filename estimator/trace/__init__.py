"""The trace: a real training step of the real model on the meta device, storage by storage. Needs ftadvise[run]; imports torch late."""

from __future__ import annotations

from ftadvise.estimator.trace.result import TraceResult
from ftadvise.estimator.trace.run import trace

__all__ = ["TraceResult", "trace"]
