"""How the progress of a training looks: the live panel, a plain line, the line left behind. Words are in panel.yaml."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ftadvise.profiles.printable import one_line
from ftadvise.profiles.units import duration, gib, rate
from ftadvise.profiles.yaml_store import load_yaml
from ftadvise.runner.progress import Progress

_BARS = "▁▂▃▄▅▆▇█"
_WIDE = 100
"""Columns from which the panel shows what one can do without."""
_NEARLY_FULL = 0.97


@dataclass(frozen=True, slots=True)
class Expected:
    """What the run is compared with: bytes on the device, the device's own, padded tokens per second. None where it is not known."""

    device_bytes: int | None = None
    card_bytes: int | None = None
    tokens_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Heading:
    """What runs: its title, which attempt it is, and what that one changed in the recipe, in words."""

    title: str = ""
    attempt: int = 1
    changes: str = ""


def panel_text(key: str, lang: str, **values: Any) -> str:
    """The words for `panel.<key>` in `lang` ("en" or "zh"), with {placeholders} filled in."""
    return _texts()[f"panel.{key}"][lang].format(**values)


def panel(progress: Progress, expected: Expected, heading: Heading, lang: str, console: Console) -> RenderableType:
    """The live panel: a heading, then one line each for steps, loss, speed, memory, and evaluation when there is one."""
    wide = console.width >= _WIDE
    bar = max(8, min(32, console.width - 56))
    lines = {
        "step": _steps(progress, bar, lang),
        "loss": None if progress.last_loss is None else _loss(progress, bar if wide else 16, lang),
        "speed": _speed(progress, expected, lang, wide=wide),
        "memory": None if progress.bytes_in_use is None else _memory(progress.bytes_in_use, expected, bar, lang),
        "evaluation": _evaluation(progress, lang) if progress.evaluations or progress.evaluating is not None else None,
    }
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True, min_width=max(cell_len(panel_text(name, lang)) for name in lines))
    table.add_column(no_wrap=True, overflow="ellipsis")
    for name, line in lines.items():
        if line:
            table.add_row(panel_text(name, lang), line)
    return Group(*_heading(heading, lang), table)


def plain_line(progress: Progress, lang: str) -> str:
    """One line for a log file: step, loss, learning rate, speed, memory, time left; what is not known is left out."""
    speed, left = progress.tokens_per_second, progress.seconds_left
    parts = [panel_text("plain_step", lang, step=f"{progress.step:,}", total=f"{progress.total_steps:,}")]
    if progress.last_loss is not None:
        parts.append(panel_text("plain_loss", lang, loss=_number(progress.last_loss)))
    if progress.learning_rate is not None:
        parts.append(panel_text("learning_rate", lang, rate=f"{progress.learning_rate:.2g}"))
    if speed:
        parts.append(panel_text("tokens", lang, speed=rate(speed)))
    if progress.bytes_in_use is not None:
        parts.append(panel_text("plain_memory", lang, size=gib(progress.bytes_in_use)))
    if left:
        parts.append(panel_text("left", lang, time=duration(left)))
    return "  ".join(parts)


def evaluation_line(progress: Progress, lang: str) -> str:
    """One line for the evaluation that is just done."""
    step, loss = progress.evaluations[-1]
    at = panel_text("plain_step", lang, step=f"{step:,}", total=f"{progress.total_steps:,}")
    return f"{at}  {panel_text('plain_evaluation', lang, loss=_number(loss))}"


def summary_line(progress: Progress, seconds: float, lang: str) -> str:
    """What stays on the screen: steps, time, loss from first to last, speed, the most memory, the last evaluation."""
    time, steps, total = duration(seconds), f"{progress.step:,}", f"{progress.total_steps:,}"
    done = progress.step >= progress.total_steps
    parts = [panel_text("done", lang, steps=steps, time=time) if done else panel_text("stopped", lang, step=steps, total=total, time=time)]
    if progress.first_loss is not None and progress.smooth_loss is not None:
        parts.append(panel_text("loss_span", lang, first=_number(progress.first_loss), last=_number(progress.smooth_loss)))
    if progress.evaluations:
        parts.append(panel_text("plain_evaluation", lang, loss=_number(progress.evaluations[-1][1])))
    if progress.tokens_per_second:
        parts.append(panel_text("tokens", lang, speed=rate(progress.tokens_per_second)))
    if progress.most_bytes is not None:
        parts.append(panel_text("peak", lang, size=gib(progress.most_bytes)))
    return (", " if lang == "en" else "，").join(parts)


def sparkline(values: tuple[float, ...], width: int) -> str:
    """The last values up to `width` of them as a line of bars, the lowest the smallest."""
    shown = values[-width:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in shown)


def _heading(heading: Heading, lang: str) -> list[Text]:
    lines = [_line(heading.title, "bold")] if heading.title else []
    if heading.attempt > 1:
        lines.append(_line(panel_text("attempt", lang, number=heading.attempt, changes=heading.changes).rstrip("：: "), "yellow"))
    return lines


def _line(words: str, style: str) -> Text:
    """One line whatever a name in it contains."""
    return Text(one_line(words), style=style, no_wrap=True, overflow="ellipsis")


def _steps(progress: Progress, width: int, lang: str) -> Text:
    total, left = max(1, progress.total_steps), progress.seconds_left
    words = f"  {progress.step:,}/{progress.total_steps:,}  {100 * progress.step // total} %"
    words += "" if left is None else "  " + panel_text("left", lang, time=duration(left))
    return _bar(progress.step / total, width).append(words)


def _loss(progress: Progress, sparks: int, lang: str) -> Text:
    smooth, last = progress.smooth_loss, progress.last_loss
    words = Text(_number(smooth if smooth is not None else math.nan), style="bold")
    if last is not None:
        words.append("  " + panel_text("last", lang, loss=_number(last)), style="not bold" if math.isfinite(last) else "not bold red")
    line = sparkline(progress.loss_curve, sparks)
    return words.append("  " + line, style="not bold cyan") if len(line) > 1 else words


def _speed(progress: Progress, expected: Expected, lang: str, *, wide: bool) -> str:
    speed, pace, parts = progress.tokens_per_second, progress.seconds_per_step, []
    if speed and expected.tokens_per_second:
        parts.append(panel_text("tokens_predicted", lang, speed=rate(speed), predicted=rate(expected.tokens_per_second)))
    elif speed:
        parts.append(panel_text("tokens", lang, speed=rate(speed)))
    if pace and wide:
        parts.append(panel_text("per_step", lang, time=duration(pace)))
    if progress.learning_rate is not None:
        parts.append(panel_text("learning_rate", lang, rate=f"{progress.learning_rate:.2g}"))
    return "  ".join(parts)


def _memory(in_use: int, expected: Expected, width: int, lang: str) -> Text:
    card, predicted = expected.card_bytes, expected.device_bytes
    words = panel_text("of", lang, used=gib(in_use), available=gib(card)) if card else gib(in_use)
    if predicted:
        words += "  " + panel_text("predicted", lang, size=gib(predicted))
    if not card:
        return Text(words)
    full = in_use > _NEARLY_FULL * card
    return _bar(in_use / card, width, mark=predicted and predicted / card, style="red" if full else "cyan").append("  " + words)


def _evaluation(progress: Progress, lang: str) -> str:
    parts, best = [], progress.best_evaluation
    if progress.evaluating is not None:
        parts.append(panel_text("evaluating", lang, done=f"{progress.evaluating:,}"))
    if progress.evaluations:
        step, loss = progress.evaluations[-1]
        parts.append(panel_text("evaluated", lang, loss=_number(loss), step=f"{step:,}"))
        if best and best[0] != step:
            parts.append(panel_text("best", lang, loss=_number(best[1]), step=f"{best[0]:,}"))
    return "  ".join(parts)


def _number(loss: float) -> str:
    return f"{loss:.3f}" if abs(loss) < 100 or not math.isfinite(loss) else f"{loss:.3g}"


def _bar(share: float, width: int, *, mark: float | None = None, style: str = "cyan") -> Text:
    """A bar of `width` columns, filled to `share`, with a line at `mark` (shares of the width)."""
    filled = min(width, max(0, round(share * width)))
    columns = [("━", style)] * filled + [("─", "dim")] * (width - filled)
    if mark is not None:
        columns[min(width - 1, max(0, round(mark * width)))] = ("┃", "bold yellow")
    return Text.assemble(
        *(("".join(sign for sign, _ in run), look) for look, run in itertools.groupby(columns, key=lambda column: column[1]))
    )


@functools.cache
def _texts() -> dict[str, dict[str, str]]:
    texts: dict[str, dict[str, str]] = load_yaml(Path(__file__).parent / "panel.yaml")
    return texts
