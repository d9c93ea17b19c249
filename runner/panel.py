"""The training's progress on the screen: a live panel on a terminal, plain lines elsewhere. Imports transformers: late."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text
from transformers import TrainerCallback

from ftadvise.runner.panel_view import Expected, Heading, evaluation_line, panel, plain_line, summary_line
from ftadvise.runner.progress import Progress

if TYPE_CHECKING:
    from ftadvise.runner.callbacks import StepRecord

PLAIN_LINES = 10
"""About how many progress lines a run prints where nothing can be redrawn (a log file, a pipe)."""
LONGEST_SILENCE_S = 180.0
"""After which a line is printed anyway, so that the log of a batch job shows that it lives."""
REDRAW_EVERY_S = 0.5
_DRAWING_SHARE = 0.005
"""Of the time, at most, goes into drawing: where that is slow, the panel is redrawn less often."""


class MemoryGauge(Protocol):
    """What knows the memory in use (`runner.timeline.TimelineRecorder`)."""

    bytes_in_use: int | None


class Panel(TrainerCallback):  # type: ignore[misc]
    """Shows the training. Add it to the trainer after the recorders, whose figures it reads; it keeps no thread, it redraws between steps.

    Args:
        console: where it goes; a live panel when that is a terminal, else plain lines.
        predicted: the `ftadvise.estimate/1` document to compare with; {} for none.
        card_bytes: memory of the device; None where the process shares the machine's memory.
        steps: the list that `StepRecorder` fills, for the speed.
        memory: what knows the memory in use.
        devices: processes that train the same number of tokens beside this one, it included.
        heading: title and attempt.
        lang: "en" or "zh".
    """

    def __init__(
        self,
        console: Console,
        *,
        predicted: dict[str, Any],
        card_bytes: int | None,
        steps: Sequence[StepRecord] = (),
        memory: MemoryGauge | None = None,
        devices: int = 1,
        heading: Heading | None = None,
        lang: str = "en",
    ) -> None:
        self._console, self._steps, self._memory, self._devices = console, steps, memory, devices
        self._heading, self._lang = heading or Heading(), lang
        speed = predicted.get("throughput") or {}
        used = (predicted.get("memory") or {}).get("device_used_bytes")
        self._expected = Expected(used, card_bytes, speed.get("tokens_per_second"))
        self.progress = Progress(0)
        self._live: Live | None = None
        capable = not console.is_dumb_terminal and not console.options.ascii_only
        self._is_live = capable and console.is_terminal and console.file.isatty()  # FORCE_COLOR makes is_terminal true of a log file
        self._began: float | None = None
        self._shown = self._due = 0.0
        self._counted = len(steps)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show it."""
        self._began = self._shown = time.perf_counter()
        self.progress.total_steps = state.max_steps
        self.progress.starts(state.global_step, self._began)
        self._gauge()
        if self._is_live:
            self._live = Live(self._drawn(), console=self._console, auto_refresh=False, transient=True)
            self._live.start(refresh=True)

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Between two micro batches, for the clock of slow steps."""
        self._show_life()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step is done."""
        self.progress.ends_step(state.global_step, time.perf_counter())
        self._gauge()
        self._redraw()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """The trainer knows the loss of the step that just ended."""
        if not logs or "loss" not in logs:
            return
        for record in self._steps[self._counted :]:
            self.progress.works(record.tokens * self._devices, record.seconds)
        self._counted = len(self._steps)
        self.progress.loses(float(logs["loss"]), logs.get("learning_rate"))
        step, total = state.global_step, state.max_steps
        if not self._is_live and (step in (1, total) or step % max(1, total // PLAIN_LINES) == 0):
            self._print(plain_line(self.progress, self._lang))
        self._show_life()

    def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A batch of an evaluation is done."""
        self.progress.evaluating = (self.progress.evaluating or 0) + 1
        self._show_life()

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **_: Any) -> None:
        """An evaluation is done."""
        self.progress.evaluating = None
        self._gauge()
        if metrics and "eval_loss" in metrics:
            self.progress.evaluates(state.global_step, float(metrics["eval_loss"]))
            if not self._is_live:
                self._print(evaluation_line(self.progress, self._lang))
        self._redraw()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take it away and leave one line."""
        self.close()

    def close(self) -> None:
        """Give the terminal back, also after an error; leaves one plain line about what was trained."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._began is not None:
            began, self._began = self._began, None
            self._print(summary_line(self.progress, time.perf_counter() - began, self._lang))

    def _gauge(self) -> None:
        if self._memory is not None:
            self.progress.uses(self._memory.bytes_in_use)

    def _drawn(self) -> Any:
        return panel(self.progress, self._expected, self._heading, self._lang, self._console)

    def _show_life(self) -> None:
        self._redraw()
        if not self._is_live and time.perf_counter() - self._shown >= LONGEST_SILENCE_S:
            self._print(plain_line(self.progress, self._lang))

    def _redraw(self) -> None:
        if self._live is None:
            return
        if time.perf_counter() >= self._due:
            began = time.thread_time()
            self._live.update(self._drawn(), refresh=True)
            self._due = time.perf_counter() + max(REDRAW_EVERY_S, (time.thread_time() - began) / _DRAWING_SHARE)

    def _print(self, line: str) -> None:
        self._shown = time.perf_counter()
        self._console.print(Text(line), soft_wrap=True)
