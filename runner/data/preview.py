"""What `ftadvise data` shows: the rows that a run would read, samples of them with what is learned, and their lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ftadvise.estimator.data_settings import DataSettings
from ftadvise.estimator.lengths import LengthStats
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.model_spec import ModelSpec
from ftadvise.runner.chat_template import use_template
from ftadvise.runner.data import load_rows
from ftadvise.runner.data.rows import Row, RowSet
from ftadvise.runner.lengths import estimated_length, light_tokenizer, token_lengths
from ftadvise.runner.rendered import Layout, Rendered
from ftadvise.runner.tokens import IGNORED_LABEL, token_spans

DATA_SCHEMA = "ftadvise.data/1"
State = Literal["read", "learned", "cut"]
_BARS = 10
_LONGEST_SAMPLE = 200_000


@dataclass(frozen=True, slots=True)
class Sample:
    """One row as the model reads it, in segments that are only read, learned, or cut off behind seq_len.

    `tokens` is None where they are not counted; then each turn is a segment, with its role before it.
    """

    source: str
    segments: tuple[tuple[State, str], ...]
    tokens: int | None


@dataclass(frozen=True, slots=True)
class Preview:
    """`stops`: the run would stop at a broken row, because `settings` do not say to skip it."""

    settings: DataSettings
    rows: RowSet
    lengths: LengthStats
    seq_len: int | None
    samples: tuple[Sample, ...]
    model: str | None
    stops: InputError | None

    def to_json(self) -> dict[str, Any]:
        """The document of `ftadvise data --json`."""
        lengths, seq_len = self.lengths, self.seq_len
        return {
            "schema": DATA_SCHEMA,
            "settings": self.settings.to_dict(),
            "model": self.model,
            **self.rows.summary(),
            "stops_at": None if self.stops is None else str(self.stops),
            "problems_listed": [{"kind": each.kind, "source": each.source, "text": each.text} for each in self.rows.problems],
            "lengths": {
                "measured": lengths.measured,
                "examples": lengths.examples,
                "total": sum(lengths.lengths),
                "mean": round(lengths.mean, 1),
                **{f"p{percent}": lengths.percentile(percent) for percent in (50, 95, 99)},
                "longest": lengths.longest,
                "covering_seq_len": lengths.covering_seq_len,
                "seq_len": seq_len,
                "truncated": None if seq_len is None else lengths.truncated(seq_len),
                "histogram": [{"from": first, "to": last, "rows": count} for first, last, count in histogram(lengths.lengths)],
            },
            "samples": [
                {
                    "source": each.source,
                    "tokens": each.tokens,
                    "segments": [{"state": state, "text": text} for state, text in each.segments],
                }
                for each in self.samples
            ],
        }


def preview(settings: DataSettings, model: ModelSpec | None, *, seq_len: int | None = None, samples: int = 3) -> Preview:
    """Read the data as a run would, but go on after broken rows. Without a model lengths are estimated and nothing is rendered.

    Raises:
        InputError: nothing can be read, or the model's chat template refuses a sample.
    """
    stops: InputError | None = None
    try:
        rows = load_rows(settings.replace(skip_broken=True))
    except InputError:
        load_rows(settings)  # where every row is broken, the first one says more
        raise
    broken = next((each for each in rows.problems if each.kind == "broken"), None)
    if broken is not None and not settings.skip_broken:
        stops = InputError(f"{broken.source}: {broken.text}", hint="mend it, or leave such rows out with --skip-broken")
    lengths = (
        LengthStats.of(map(estimated_length, rows.rows), measured=False)
        if model is None
        else token_lengths(rows.rows, model, template=settings.template)
    )
    tokenizer = light_tokenizer(model) if model is not None and lengths.measured else None
    if tokenizer is not None:
        use_template(tokenizer, settings.template)
    chosen = [rows.rows[at] for at in _spread(len(rows.rows), samples)]
    shown = tuple(_sample(row, tokenizer, settings, seq_len) for row in chosen)
    return Preview(settings, rows, lengths, seq_len, shown, None if model is None else model.id, stops)


def histogram(lengths: Sequence[int]) -> list[tuple[int, int | None, int]]:
    """(from, to, rows) in tokens, both inclusive, of sorted lengths: about ten steps of a round width. Where a few rows are far longer
    than nearly all (four times the 95th percentile), the last step takes them all and has no end."""
    longest, nearly_all = lengths[-1], lengths[int(0.95 * (len(lengths) - 1))]
    reach = longest if longest <= 4 * nearly_all else 2 * nearly_all
    width = next(step * 10**power for power in range(12) for step in (1, 2, 5) if step * 10**power * _BARS >= reach)
    counts = [0] * (reach // width + 1)
    for length in lengths:
        counts[min(length // width, len(counts) - 1)] += 1
    bars: list[tuple[int, int | None, int]] = [(at * width, at * width + width - 1, count) for at, count in enumerate(counts)]
    if longest > bars[-1][0] + width - 1:
        bars[-1] = (bars[-1][0], None, bars[-1][2])
    first = next(at for at, bar in enumerate(bars) if bar[2])
    return bars[first:]


def _spread(count: int, wanted: int) -> list[int]:
    """Positions spread over all rows: the first, the last, and between."""
    wanted = min(wanted, count)
    return [at * (count - 1) // max(1, wanted - 1) for at in range(wanted)]


def _sample(row: Row, tokenizer: Any, settings: DataSettings, seq_len: int | None) -> Sample:
    if tokenizer is None:
        return Sample(row.source, _by_turns(row, settings), None)
    layout = Layout(tokenizer)
    rendered = layout.row(row, where=row.source)
    if settings.learn == "all":
        rendered = Rendered(rendered.text, rendered.special, None)
    if len(rendered.text) > _LONGEST_SAMPLE:  # nobody reads that, and its tokens would take gigabytes
        return Sample(row.source, _by_turns(row, settings), None)
    spans, labels = token_spans(rendered, tokenizer)
    states = [_state(at, label, seq_len) for at, label in enumerate(labels)]
    starts = [at for at in range(len(states)) if at == 0 or states[at] != states[at - 1]]
    edges = [0, *(spans[at][0] for at in starts[1:]), len(rendered.text)]
    pieces = zip(starts, edges, edges[1:], strict=False)
    return Sample(row.source, tuple((states[at], rendered.text[first:last]) for at, first, last in pieces if last > first), len(labels))


def _state(at: int, label: int, seq_len: int | None) -> State:
    if seq_len is not None and at >= seq_len:
        return "cut"
    return "read" if label == IGNORED_LABEL else "learned"


def _by_turns(row: Row, settings: DataSettings) -> tuple[tuple[State, str], ...]:
    if row.shape == "text":
        return (("learned", row.text),)
    segments: list[tuple[State, str]] = []
    for at, (role, content) in enumerate(row.dialogue):
        learned = settings.learn == "all" or (role == "assistant" and at not in row.unlearned)
        segments += [("read", f"{role}: "), ("learned" if learned else "read", content), ("read", "\n")]
    return tuple(segments)
