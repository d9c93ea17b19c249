"""Memory over the whole run: (optimizer step, seconds, bytes in use) after each step. Imports torch and transformers: late.

Bytes in use are what runs out: on CUDA the device's memory that the process takes (the highest that the allocator reserved since the last
point, and what the process takes beside the allocator), on the CPU the resident memory of the process.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback

from ftadvise.estimator.plan_file import write_text_atomically
from ftadvise.runner.meter import nvml_process_bytes, peak_resident_bytes
from ftadvise.runner.thinned import Thinned
from ftadvise.runner.timeline_points import MAX_POINTS, Point, higher

_ASK_NVML_EVERY_S = 10.0
"""What a process takes beside the allocator (context, libraries) hardly changes; asking NVML costs milliseconds."""


class TimelineRecorder(TrainerCallback):  # type: ignore[misc]
    """Records a point after each optimizer step, at most `MAX_POINTS` in all.

    Args:
        device: "cpu" or "cuda".
        file: where the points are written whenever the trainer saves a checkpoint, so that an attempt that is killed leaves its timeline
            up to there; see `timeline_points.read_timeline`.
    """

    def __init__(self, device: str, *, file: Path | None = None) -> None:
        self._device, self._file = device, file
        self._began = time.perf_counter()
        self._thinned: Thinned[Point] = Thinned(MAX_POINTS, higher)
        self._process = psutil.Process()
        self._beside_allocator: int | None = None
        self._asked_nvml = -_ASK_NVML_EVERY_S
        self._allocated_bytes = self._reserved_bytes = 0
        self._device_used_bytes: int | None = None
        self.bytes_in_use: int | None = None
        """Of the last point."""

    @property
    def points(self) -> tuple[Point, ...]:
        """What was recorded so far."""
        return self._thinned.points

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Seconds count from here; model and optimizer are in place."""
        self._began = time.perf_counter()
        self._look(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A point."""
        self._look(state.global_step)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Evaluation may take more than a step."""
        self._look(state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """What was recorded up to this checkpoint is kept with it."""
        self.write()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The same at the end."""
        self.write()

    def write(self) -> None:
        """Write the points to `file`, if there is one; the main process does."""
        if self._file is not None:
            write_text_atomically(self._file, json.dumps([list(point) for point in self.points]) + "\n")

    def training_peak(self, *, allocated_bytes: int | None = None, reserved_bytes: int | None = None) -> dict[str, int | None]:
        """`RunReport.training_peak`: the highest of the steps recorded and of what was metered apart from them (the arguments).

        On the CPU nothing counts tensors during training, so there is only the process's peak resident memory.
        """
        if self._device == "cpu":
            return {"allocated_bytes": None, "reserved_bytes": None, "device_used_bytes": peak_resident_bytes()}
        return {
            "allocated_bytes": max(self._allocated_bytes, allocated_bytes or 0),
            "reserved_bytes": max(self._reserved_bytes, reserved_bytes or 0),
            "device_used_bytes": self._device_used_bytes,
        }

    def _look(self, step: int) -> None:
        now = time.perf_counter()
        self.bytes_in_use = self._process.memory_info().rss if self._device == "cpu" else self._cuda_bytes(now)
        self._thinned.append((step, round(now - self._began, 3), self.bytes_in_use))

    def _cuda_bytes(self, now: float) -> int | None:
        reserved = int(torch.cuda.max_memory_reserved())
        self._allocated_bytes = max(self._allocated_bytes, torch.cuda.max_memory_allocated())
        self._reserved_bytes = max(self._reserved_bytes, reserved)
        if now - self._asked_nvml >= _ASK_NVML_EVERY_S:
            self._asked_nvml = now
            used, _why_not = nvml_process_bytes()
            self._beside_allocator = None if used is None else max(0, used - torch.cuda.memory_reserved())
        if self._beside_allocator is None:
            return None
        in_use = reserved + self._beside_allocator
        self._device_used_bytes = max(self._device_used_bytes or 0, in_use)
        return in_use
