"""What hangs into the trainer: the record of steps, the progress line, the way out on Ctrl-C. Imports torch and transformers: late."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

PLAIN_LINES = 10
"""About how many progress lines a run prints where nothing can be redrawn (a log file, a pipe)."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One optimizer step: padded tokens of all its micro batches, seconds, and the mean loss."""

    step: int
    tokens: int
    seconds: float
    loss: float


@dataclass(frozen=True, slots=True)
class BatchShape:
    """One micro batch as the model saw it; `masked` when a part of it is padding."""

    sequences: int = 0
    length: int = 0
    masked: bool = False

    @property
    def tokens(self) -> int:
        """Padded tokens."""
        return self.sequences * self.length

    def at_mean_length(self, steps: list[StepRecord], micro_batches: int) -> BatchShape:
        """As many sequences, at the mean padded length of `steps` of so many micro batches each."""
        tokens = sum(step.tokens for step in steps) / (len(steps) * micro_batches)
        return BatchShape(self.sequences, max(1, round(tokens / max(1, self.sequences))), self.masked)


class StepRecorder(TrainerCallback):  # type: ignore[misc]
    """Keeps a `StepRecord` per optimizer step and the largest micro batch of the first `metered_steps`.

    Shapes are read where the batches enter the model.
    """

    def __init__(self, metered_steps: int) -> None:
        self.steps: list[StepRecord] = []
        self.largest_batch = BatchShape()
        self._metered_left = metered_steps
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
        self._metered_left -= 1

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """The trainer reports the loss of the step that just ended."""
        if logs and "loss" in logs:
            self.steps.append(StepRecord(state.global_step, self._tokens, self._seconds, float(logs["loss"])))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop counting."""
        self._handle.remove()

    def _count(self, _module: Any, _args: Any, kwargs: Any) -> None:
        ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
        if ids is None:
            return
        self._tokens += ids.numel()
        if self._metered_left > 0:
            shape = BatchShape(ids.shape[0], ids.shape[1], masked=mask is not None and not bool(mask.all()))
            self.largest_batch = max(self.largest_batch, shape, key=lambda batch: batch.tokens)


class ProgressLine(TrainerCallback):  # type: ignore[misc]
    """A live line on a terminal, about ten plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show the line."""
        if self._console.is_terminal:
            columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.add_task("training", total=state.max_steps, completed=state.global_step, loss="")
            self._bar.start()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Move it on."""
        if not logs or "loss" not in logs:
            return
        loss, step, total = float(logs["loss"]), state.global_step, state.max_steps
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, loss=f"loss {loss:.3f}")
        elif step in (1, total) or step % max(1, total // PLAIN_LINES) == 0:
            self._console.print(f"step {step}/{total}  loss {loss:.3f}", highlight=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take it away."""
        self.close()

    def close(self) -> None:
        """Give the terminal back, also after an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class StopOnInterrupt(TrainerCallback):  # type: ignore[misc]
    """The first Ctrl-C saves a checkpoint and stops after the current micro batch; a second one stops at once.

    Args:
        busy: whether the current step must be finished first (it is being metered).
    """

    def __init__(self, busy: Callable[[], bool]) -> None:
        self.interrupted = False
        self._busy = busy

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Catch SIGINT for the length of a `with` block (only the main thread may)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGINT, self._on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Between two micro batches."""
        if self.interrupted and not self._busy():
            self._stop(control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After a whole step."""
        if self.interrupted:
            self._stop(control)

    def _stop(self, control: Any) -> None:
        control.should_save = True
        control.should_training_stop = True

    def _on_signal(self, _number: int, _frame: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        # a signal arrives anywhere, also while the console is writing: only a bare write is safe here
        os.write(2, b"\nstopping as soon as the state can be saved; Ctrl-C again stops at once, without saving\n")
