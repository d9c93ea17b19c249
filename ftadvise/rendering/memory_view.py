"""The memory bar: components against the memory that is available."""

from __future__ import annotations

import dataclasses

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ftadvise.estimator.estimate_types import MemoryEstimate
from ftadvise.rendering.sentence import Sentence
from ftadvise.rendering.texts import text
from ftadvise.rendering.units import gib

# component: colour, and the letter that stands for it where there is no colour
_LOOKS = {
    "weights": ("blue", "W"),
    "quantization_constants": ("cyan", "Q"),
    "adapters": ("magenta", "A"),
    "gradients": ("bright_magenta", "G"),
    "optimizer_state": ("yellow", "O"),
    "activations": ("green", "V"),
    "loss": ("bright_red", "L"),
    "workspace": ("bright_green", "T"),
    "reserve": ("bright_black", "R"),
    "context": ("white", "C"),
}
_SMALLEST_SHOWN = 1 << 18
"""A quarter of a MiB: what is smaller (the loss itself, a handful of scalars) only fills the table."""
_VERDICT_STYLES = {"fits": "bold green", "tight": "bold yellow", "does_not_fit": "bold red"}


@dataclasses.dataclass(frozen=True, slots=True)
class _Bar:
    """Segments as wide as their share of `available_bytes`; what goes beyond the end is cut and marked."""

    parts: tuple[tuple[str, int], ...]
    available_bytes: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(10, min(options.max_width, 76) - 2)
        plain = console.no_color or not console.is_terminal
        bar, filled, seen = Text("["), 0, 0
        for name, size in self.parts:
            seen += size
            end = min(width, round(width * seen / max(1, self.available_bytes)))
            color, letter = _LOOKS[name]
            bar.append((letter if plain else "█") * (end - filled), style=None if plain else color)
            filled = max(filled, end)
        over = seen > self.available_bytes
        bar.append("·" * (width - filled), style="dim")
        bar.append("!" if over else "]", style="bold red" if over else None)
        yield bar

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(12, min(options.max_width, 78))


def memory_view(memory: MemoryEstimate, lang: str, *, device: str) -> RenderableType:
    """The verdict in a line, the bar, and a table of what fills it."""
    parts = [(f.name, getattr(memory.components, f.name)) for f in dataclasses.fields(memory.components) if f.name != "context"]
    reserve = memory.peak_reserved_bytes - memory.peak_allocated_bytes
    parts += [("reserve", reserve), ("context", memory.components.context)]
    shown = tuple((name, size) for name, size in parts if size >= _SMALLEST_SHOWN)
    head = Sentence()
    head.append(text("memory.title" if device == "cuda" else "memory.title_cpu", lang), style="bold")
    head.append("  " + text("memory.of", lang, used=gib(memory.device_used_bytes), available=gib(memory.available_bytes)))
    head.append("  " + text(f"verdict.{memory.verdict}", lang), style=_VERDICT_STYLES[memory.verdict])
    head.append(f"  {text('memory.interval', lang, low=gib(memory.low_bytes), high=gib(memory.high_bytes))}", style="dim")
    comma = "，" if lang == "zh" else ", "
    peak = text("memory.peak", lang, phase=text(f"phase.{memory.peak_phase}", lang))
    if memory.peak_operation:
        peak += f" ({' '.join(filter(None, (memory.peak_operation, memory.peak_module)))})"
    head.append(comma.join(["", peak, text(f"basis.{memory.basis}", lang)]), style="dim")
    cells = tuple((_label(name, lang, device), gib(size)) for name, size in shown)
    return Group(head, _Bar(shown, memory.available_bytes), _Legend(cells))


@dataclasses.dataclass(frozen=True, slots=True)
class _Legend:
    """Names and sizes in two columns, or in one where the terminal is narrow."""

    cells: tuple[tuple[Text, str], ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widest = max((name.cell_len + len(size) + 4 for name, size in self.cells), default=0)
        columns = 2 if 2 * widest <= options.max_width else 1
        table = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(columns):
            table.add_column(overflow="fold")
            table.add_column(justify="right", no_wrap=True)
        rows = -(-len(self.cells) // columns)
        for left, right in zip(self.cells, [*self.cells[rows:], *[(Text(), "")] * rows][:rows], strict=False):
            table.add_row(*left, *(right if columns == 2 else ()))
        yield table


def _label(name: str, lang: str, device: str) -> Text:
    color, letter = _LOOKS[name]
    key = "component.context_cpu" if name == "context" and device == "cpu" else f"component.{name}"
    label = Text(letter, style=color)
    label.append(f" {text(key, lang)}", style="default")
    return label
