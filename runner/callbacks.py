"""What hangs into the trainer: the record of steps, the way out on Ctrl-C. Imports torch and transformers: late."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback

from ftadvise.runner.ranks import any_rank, is_main


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One optimizer step of this process: padded tokens of all its micro batches, seconds, and the mean loss."""

    step: int
    tokens: int
    seconds: float
    loss: float


class StepRecorder(TrainerCallback):  # type: ignore[misc]
    """Keeps a `StepRecord` per optimizer step. Shapes are read where the batches enter the model."""

    def __init__(self) -> None:
        self.steps: list[StepRecord] = []
        self._tokens = 0
        self._began = 0.0
        self._seconds = 0.0
        self._handle: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Start counting the tokens of each forward pass."""
        self._handle = model.register_forward_pre_hook(self._count, with_kwargs=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The first micro batch of a step is about to enter."""
        self._tokens, self._began = 0, time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The update is done, on a GPU when it has caught up with the host."""
        if args.device.type == "cuda":
            torch.cuda.synchronize()
        self._seconds = time.perf_counter() - self._began

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """The trainer reports the loss of the step that just ended."""
        if logs and "loss" in logs:
            self.steps.append(StepRecord(state.global_step, self._tokens, self._seconds, float(logs["loss"])))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop counting."""
        self._handle.remove()

    def _count(self, _module: Any, _args: Any, kwargs: Any) -> None:
        ids = kwargs.get("input_ids")
        if ids is not None:
            self._tokens += ids.numel()


class StopOnInterrupt(TrainerCallback):  # type: ignore[misc]
    """The first Ctrl-C, SIGTERM or SIGHUP saves a checkpoint and stops after the current step; a second one stops at once.

    Among several ranks all stop after the same step, whichever was told. Signals that follow each other within a second are one: a
    scheduler tells every process of a job, and the supervisor passes on what it was told itself.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._since = math.inf

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signals for the length of a `with` block (only the main thread may)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        wanted = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        previous = {number: signal.signal(number, self._on_signal) for number in wanted}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Between two micro batches: a single process need not finish the step, which is trained again after --resume."""
        if self.interrupted and args.world_size == 1:
            self._stop(control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After a whole step, in all ranks."""
        if any_rank(self.interrupted):
            self._interrupt()
            self._stop(control)

    def _stop(self, control: Any) -> None:
        control.should_save = True
        control.should_training_stop = True

    def _on_signal(self, _number: int, _frame: Any) -> None:
        if time.monotonic() - self._since > 1:
            raise KeyboardInterrupt
        # a signal arrives anywhere, also while the console is writing: only a bare write is safe here
        if not self.interrupted and is_main():
            os.write(2, b"\nstopping as soon as the state can be saved; Ctrl-C again stops at once, without saving\n")
        self._interrupt()

    def _interrupt(self) -> None:
        self.interrupted, self._since = True, min(self._since, time.monotonic())


class CheckpointClock(TrainerCallback):  # type: ignore[misc]
    """Saves by the clock: what a crash may cost is minutes, however long the run is.

    Between two saves lie at least `EVERY_S` seconds and at least fifty times what the last one took, so that saving takes two per cent of
    the time at most. The trainer's own saves (shares of the run) are on top.
    """

    EVERY_S = 900.0
    SHARE = 0.02

    def __init__(self) -> None:
        self._saved = time.monotonic()
        self._took_s = 0.0
        self._asked = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """All ranks save after the same step: whichever clock is first."""
        due = time.monotonic() - self._saved > max(self.EVERY_S, self._took_s / self.SHARE)
        if args.save_strategy != "no" and any_rank(due):
            control.should_save = True
        self._asked = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Saving began after `on_step_end` (and what was logged and evaluated in between) and is done."""
        self._saved = time.monotonic()
        self._took_s = self._saved - self._asked
