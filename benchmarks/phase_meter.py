"""Peak memory and time by phase of a run on one device. Imports torch: import this module late.

On CUDA the caching allocator's own peaks are read and reset at every change of phase, so a phase shows what *it* needed, not what an
earlier one did. On the CPU (to try the benchmark without a GPU) a storage recorder counts live tensors.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import TrainerCallback

from ftadvise.estimator.storage_recorder import StorageRecorder

METERED_STEPS = 2
"""The first step creates the optimizer state, the second shows it beside the activations; later steps are only timed."""


class PhaseMeter:
    """`allocated` and `reserved`: phase -> peak bytes. Call `enter` at each change of phase and `close` at the end."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.allocated: dict[str, int] = {}
        self.reserved: dict[str, int] = {}
        self._phase: str | None = None
        self._recorder = StorageRecorder("cpu") if device == "cpu" else None
        if self._recorder is not None:
            self._recorder.__enter__()

    def enter(self, phase: str | None) -> None:
        """From now on, peaks belong to `phase`; None for what is not of interest."""
        if self._recorder is not None:
            self._recorder.phase = phase or "other"
        else:
            self._close_phase()
            torch.cuda.reset_peak_memory_stats()
        self._phase = phase

    def adopt(self, tensors: list[torch.Tensor]) -> None:
        """On the CPU: count tensors that were made where the recorder cannot see (the loader's threads)."""
        if self._recorder is not None:
            self._recorder.adopt(tensors, "weights")

    def close(self) -> None:
        """Stop metering; also after an error."""
        if self._recorder is None:
            self._close_phase()
        else:
            self._recorder.__exit__(None, None, None)
            self.allocated = {phase: moment.total_bytes for phase, moment in self._recorder.peaks().items() if phase != "other"}
            self._recorder = None
        self._phase = None

    def _close_phase(self) -> None:
        if self._phase is not None:
            for peaks, peak in ((self.allocated, torch.cuda.max_memory_allocated()), (self.reserved, torch.cuda.max_memory_reserved())):
                peaks[self._phase] = max(peaks.get(self._phase, 0), peak)


class PhaseCallback(TrainerCallback):  # type: ignore[misc]
    """Follows a transformers Trainer: phases of the first `METERED_STEPS` steps, and the seconds of every step."""

    def __init__(self, meter: PhaseMeter, model: torch.nn.Module) -> None:
        self.seconds: list[float] = []
        self.batch = (0, 0)
        self._meter = meter
        self._handles = [
            model.register_forward_pre_hook(self._forward_begins, with_kwargs=True),
            model.register_forward_hook(lambda *_: meter.enter("backward")),
        ]
        self._started = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self._started = self._now()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The gradients are complete and clipped; the update follows."""
        if self._handles:
            self._meter.enter("optimizer_step")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop the clock; after the metered steps let the run go unhooked."""
        self.seconds.append(self._now() - self._started)
        self._meter.enter("later_steps" if len(self.seconds) >= METERED_STEPS else None)
        if len(self.seconds) == METERED_STEPS:
            self.unhook()

    def unhook(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _forward_begins(self, _module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        self._meter.enter("forward")
        ids = kwargs.get("input_ids")
        if ids is not None:
            self.batch = max(self.batch, (ids.shape[0], ids.shape[1]), key=lambda shape: shape[0] * shape[1])

    def _now(self) -> float:
        if self._meter.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()
