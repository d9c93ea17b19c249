"""Sentences in a terminal: Chinese breaks between its characters, nothing is ever cut off, and narrow terminals get one column."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.containers import Lines
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_OPENING, _CLOSING = "（《“‘【", "，。；：！？、）》”’】…％"
_CHINESE = "\u2e80-\u9fff\uff00-\uffef"
_UNIT = re.compile(rf"[{_OPENING}]*(?:[{_CHINESE}]|[^\s{_CHINESE}{_OPENING}{_CLOSING}]+|$)?[{_CLOSING}]*\s*")
"""What stays together: one Chinese character or one word, with the marks around it and the space behind it."""
_LEAST_WORDS = 24
"""Cells that the sentences beside other columns must have, else they go below them."""


class Sentence(Text):
    """A text that is wrapped by the units above. Rich knows spaces only, and cuts off Chinese that is longer than its column."""

    def wrap(self, console: Console, width: int, **options: Any) -> Lines:
        """Lines of at most `width` cells."""
        lines = Lines()
        for line in self.split(allow_blank=True):
            broken = line.divide(_breaks(line.plain, width))
            for part in broken:
                part.rstrip()
            lines.extend(broken)
        return lines

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """From the longest unit to the whole text."""
        widest = max((cell_len(line) for line in self.plain.splitlines()), default=0)
        longest = max((cell_len(unit.rstrip()) for unit in _units(self.plain)), default=0)
        return Measurement(min(longest, options.max_width), min(widest, options.max_width))


@dataclass(frozen=True, slots=True)
class Entries:
    """Rows of some heads and a sentence. Beside each other where there is room for it, else the sentence is below its heads."""

    rows: Sequence[tuple[Sequence[Text], Text]]
    gap: int = 2

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self.rows:
            return
        columns = max(len(heads) for heads, _ in self.rows)
        widths = [max((heads[at].cell_len for heads, _ in self.rows if at < len(heads)), default=0) for at in range(columns)]
        if sum(widths) + self.gap * columns + _LEAST_WORDS <= options.max_width:
            table = Table.grid(padding=(0, self.gap, 0, 0))
            for at in range(columns):
                table.add_column(no_wrap=True, justify=self.rows[0][0][at].justify or "left")
            table.add_column(overflow="fold")
            for heads, sentence in self.rows:
                table.add_row(*heads, *[Text()] * (columns - len(heads)), sentence)
            yield table
            return
        for heads, sentence in self.rows:
            shown = [head for head in heads if head.plain.strip()]
            if shown and (len(shown) > 1 or shown[0].cell_len > 3):
                yield Padding(Text("  ").join(Text.assemble(head, justify="left") for head in shown), 0)
                yield Padding(sentence, (0, 0, 0, 4))
            else:  # a bullet
                bullets = Table.grid(padding=(0, 1, 0, 0))
                bullets.add_row(Text().join(shown) if shown else Text("   "), sentence)
                yield bullets


def _breaks(line: str, width: int) -> list[int]:
    """Offsets at which the line is divided; a unit wider than a whole line is divided within."""
    breaks: list[int] = []
    at = used = 0
    for unit in _units(line):
        size = cell_len(unit.rstrip())
        if used and used + size > width:
            breaks.append(at)
            used = 0
        if size > width:
            for offset, char in enumerate(unit.rstrip()):
                cells = cell_len(char)
                if used + cells > width and used:
                    breaks.append(at + offset)
                    used = 0
                used += cells
            used += cell_len(unit) - size
        else:
            used += cell_len(unit)
        at += len(unit)
    return breaks


def _units(line: str) -> Iterator[str]:
    at = 0
    while at < len(line):
        match = _UNIT.match(line, at)
        end = match.end() if match and match.end() > at else at + 1
        yield line[at:end]
        at = end
