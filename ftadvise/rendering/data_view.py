"""What `ftadvise data` shows. Everything that comes from the data passes `printable`: control characters never reach the terminal."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from ftadvise.profiles.printable import printable
from ftadvise.rendering.chinese import in_language
from ftadvise.rendering.sentence import Sentence
from ftadvise.rendering.texts import text
from ftadvise.rendering.units import count
from ftadvise.runner.data.preview import Preview, Sample, State, histogram
from ftadvise.runner.data.rows import RowSet

_STYLES: dict[State, str] = {"read": "dim", "learned": "green", "cut": "red"}
_SHOWN_CHARACTERS, _SHOWN_PROBLEMS, _SHOWN_FILES = 600, 5, 8
_BAR_WIDTH = 40


def data_view(found: Preview, lang: str) -> RenderableType:
    """Files and formats, rows, lengths with their histogram, samples, problems."""
    blocks = [*_files(found.rows, lang), _rows(found.rows, lang), *_lengths(found, lang)]
    for number, sample in enumerate(found.samples, 1):
        blocks += [Text(), _SampleView(sample, number, lang)]
    if found.samples:
        blocks.append(_Legend(lang))
    blocks += _problems(found.rows, lang)
    return Group(*blocks)


def next_command(found: Preview) -> str:
    """The plan for this data, with the same settings."""
    settings = found.settings
    parts = ["ftadvise", "plan", *(("--model", found.model) if found.model else ()), "--data", settings.path or ""]
    values = {"--format": settings.format, "--eval-data": settings.eval_path, "--template": settings.template}
    values |= {"--columns": ",".join(f"{role}={column}" for role, column in settings.columns), "--labels": ",".join(settings.labels)}
    values |= {"--eval-share": f"{settings.eval_share:g}" if settings.eval_share else None}
    values |= {"--learn": settings.learn if settings.learn != "answers" else None}
    for flag, value in values.items():
        parts += [flag, value] if value else []
    parts += ["--skip-broken"] if settings.skip_broken else []
    parts += ["--drop-duplicates"] if settings.drop_duplicates else []
    return printable(shlex.join(parts))


def _files(rows: RowSet, lang: str) -> Iterator[RenderableType]:
    files = [*rows.files, *rows.eval_files]
    for file in files[:_SHOWN_FILES]:
        line = Sentence()
        line.append(text("preview.file", lang, path=printable(file.path), format=file.format or "-", rows=count(file.rows)), style="bold")
        if file.why:
            line.append("  " + text("preview.columns", lang, columns=printable(file.why)), style="dim")
        yield line
    if len(files) > _SHOWN_FILES:
        yield Text(text("preview.skipped_more", lang, count=count(len(files) - _SHOWN_FILES)), style="dim")
    for skipped in rows.skipped[:_SHOWN_FILES]:
        words = text("preview.skipped", lang, path=printable(skipped.path), why=in_language(skipped.why, lang))
        yield Text(words, style="dim")
    if len(rows.skipped) > _SHOWN_FILES:
        yield Text(text("preview.skipped_more", lang, count=count(len(rows.skipped) - _SHOWN_FILES)), style="dim")


def _rows(rows: RowSet, lang: str) -> RenderableType:
    counts: dict[str, int] = {"learn": len(rows.rows), "evaluate": len(rows.eval_rows), **dict(rows.counts)}
    if rows.duplicates_dropped and "duplicate" in counts:
        counts["duplicate_dropped"] = counts.pop("duplicate")
    line = Sentence()
    line.append(text("preview.rows", lang), style="bold")
    words = [text(f"preview.{kind}", lang, count=count(number)) for kind, number in counts.items() if number]
    line.append("  " + ("，" if lang == "zh" else ", ").join(words))
    if not rows.labels:
        return line
    classes = Sentence()
    classes.append(text("preview.classes", lang), style="bold")
    classes.append("  " + printable(", ".join(rows.labels[:20])) + (" ..." if len(rows.labels) > 20 else ""))
    return Group(line, classes)


def _lengths(found: Preview, lang: str) -> Iterator[RenderableType]:
    lengths, seq_len = found.lengths, found.seq_len
    line = Sentence()
    line.append(text("preview.lengths", lang), style="bold")
    values = {"p50": lengths.percentile(50), "p95": lengths.percentile(95), "longest": lengths.longest, "total": sum(lengths.lengths)}
    line.append("  " + text("preview.lengths_are", lang, **{name: count(value) for name, value in values.items()}))
    basis = text("preview.measured", lang, model=found.model) if lengths.measured else text("preview.estimated", lang)
    line.append(("，" if lang == "zh" else ", ") + basis, style="dim")
    yield line
    if seq_len is None:
        yield Sentence(text("preview.covering", lang, seq_len=lengths.covering_seq_len), style="dim")
    else:
        cut = lengths.truncated(seq_len)
        words = text("preview.cut", lang, count=count(cut), seq_len=count(seq_len)) if cut else None
        yield Sentence(words or text("preview.none_cut", lang, seq_len=count(seq_len)), style="yellow" if cut else "dim")
    yield _Histogram(tuple(histogram(lengths.lengths)), seq_len)


@dataclasses.dataclass(frozen=True, slots=True)
class _Histogram:
    """A bar for each step of lengths; what lies behind seq_len looks different."""

    bars: tuple[tuple[int, int | None, int], ...]
    seq_len: int | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        plain = console.no_color or not console.is_terminal
        labels = [f"{first:,}+" if last is None else f"{first:,}-{last:,}" for first, last, _ in self.bars]
        wide, most = max(map(len, labels)), max(number for *_, number in self.bars)
        figures = [count(number) for *_, number in self.bars]
        room = max(5, min(_BAR_WIDTH, options.max_width - wide - max(map(len, figures)) - 4))
        for label, figure, (first, _, number) in zip(labels, figures, self.bars, strict=True):
            cut = self.seq_len is not None and first >= self.seq_len
            length = max(1, round(room * number / most)) if number else 0
            line = Text(f"{label:>{wide}}  ", style="dim")
            line.append(("x" if cut else "#") * length if plain else "█" * length, style=None if plain else "red" if cut else "blue")
            line.append(f" {figure}" if number else "", style="default")
            yield line


@dataclasses.dataclass(frozen=True, slots=True)
class _SampleView:
    """One row: colours say what is learned, or brackets where there are none."""

    sample: Sample
    number: int
    lang: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        head = Sentence()
        head.append(text("preview.sample", self.lang, number=self.number), style="bold")
        head.append(f"  {printable(self.sample.source)}")
        if self.sample.tokens is not None:
            learned = sum(len(part) for state, part in self.sample.segments if state == "learned")
            share = round(100 * learned / max(1, sum(len(part) for _, part in self.sample.segments)))
            head.append("  " + text("preview.tokens", self.lang, count=count(self.sample.tokens), learned=share), style="dim")
        yield head
        plain, body = console.no_color or not console.is_terminal, Text()
        for state, part in _shortened(self.sample.segments, self.lang):
            shown = printable(part)
            if plain:
                shown = f"⟦{shown}⟧" if state == "learned" else f"✂{shown}" if state == "cut" else shown
            body.append(shown, style=None if plain else _STYLES[state])
        body.rstrip()
        yield body


@dataclasses.dataclass(frozen=True, slots=True)
class _Legend:
    lang: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        plain = console.no_color or not console.is_terminal
        yield Sentence(text("preview.legend_plain" if plain else "preview.legend", self.lang), style="dim")


def _shortened(segments: Sequence[tuple[State, str]], lang: str) -> Iterator[tuple[State, str]]:
    """The segments, with the middle of long ones left out, so that each can be seen."""
    room = _SHOWN_CHARACTERS // max(1, min(len(segments), 6))
    for state, part in segments[:20]:
        if len(part) > room + 40:
            gap = text("preview.left_out", lang, count=count(len(part) - room))
            yield state, f"{part[: room * 2 // 3]} {gap} {part[len(part) - room // 3 :]}"
        else:
            yield state, part
    if len(segments) > 20:
        yield "read", " " + text("preview.left_out", lang, count=count(sum(len(part) for _, part in segments[20:])))


def _problems(rows: RowSet, lang: str) -> Iterator[RenderableType]:
    if not rows.problems:
        return
    yield Text()
    yield Text(text("preview.problems", lang), style="bold")
    for kind, number in rows.counts:
        listed = [each for each in rows.problems if each.kind == kind][:_SHOWN_PROBLEMS]
        for each in listed:
            line = Sentence()
            line.append(printable(each.source) + ": ", style="yellow" if kind == "broken" else "dim")
            line.append(printable(in_language(each.text, lang)))
            yield line
        if number > len(listed):
            yield Sentence(text("preview.more_problems", lang, count=count(number - len(listed))), style="dim")
