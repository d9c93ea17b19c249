"""From a tape's events to a profile: the moments at which a step can peak, each a sum of bytes times quantities of the recipe.

Quantities are what a recipe may change without changing the order of events: tokens, rank, ... A moment is a vector over them; only moments
that no other one exceeds in every entry can be the peak for some recipe, so few are kept and a recipe is priced by a handful of products.
"""

from __future__ import annotations

import bisect
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ftadvise.estimator.tape.core import Info, Repeat, Tape

QUANTITIES = (
    "one",
    "rank",
    "rank*rank",
    "seq",
    "tokens",
    "tokens*rank",
    "scores",
    "sequences",
    "data_tokens",
    "key_tokens",
    "key_scores",
    "loss_tokens",
    "chunk",
)
_INDEX = {name: index for index, name in enumerate(QUANTITIES)}

Vector = tuple[int, ...]


def quantities(
    *, sequences: int, seq_len: int, rank: int, chunk_tokens: Callable[[int], int], prompt_tokens: int = 0, prefix_tokens: int = 0
) -> Vector:
    """The values of `QUANTITIES` for one micro batch. The last position of each sequence predicts nothing.

    Args:
        chunk_tokens: how many tokens the loss works on at once, of so many.
        prompt_tokens: virtual tokens that every sequence gets; all but the inputs are longer by them.
        prefix_tokens: virtual keys and values that every sequence gets.
    """
    length = seq_len + prompt_tokens
    tokens, predicting = sequences * length, sequences * max(1, length - 1)
    values = {
        "one": 1,
        "rank": rank,
        "rank*rank": rank * rank,
        "seq": length,
        "tokens": tokens,
        "tokens*rank": tokens * rank,
        "scores": tokens * length,
        "sequences": sequences,
        "data_tokens": sequences * seq_len,
        "key_tokens": sequences * (length + prefix_tokens),
        "key_scores": tokens * (length + prefix_tokens),
        "loss_tokens": predicting,
        "chunk": chunk_tokens(predicting),
    }
    return tuple(values[name] for name in QUANTITIES)


@dataclass(frozen=True, slots=True)
class Moment:
    """Bytes per quantity that are alive after event `index` (in the `last` copy of a repeated stretch, in its backward pass)."""

    phase: str
    alive: Vector
    index: int
    last: bool

    def bytes(self, values: Vector) -> int:
        """Live bytes for one recipe."""
        return sum(map(operator.mul, self.alive, values))


_OFTEN = 8


@dataclass(frozen=True)
class Profile:
    """What one structure of recipes needs besides its static memory.

    `moments` are first all at which memory stops growing; those that can never be the peak are dropped once the profile proves to be used
    often, because finding them costs as much as pricing a few recipes with all.
    """

    moments: list[Moment]
    events: tuple[tuple[str, int, Info], ...]
    repeats: tuple[Repeat, ...]
    times: tuple[int, ...]
    _used: list[bool] = field(default_factory=list, compare=False, repr=False)
    _by_label: dict[Moment, dict[str, list[int]]] = field(default_factory=dict, compare=False, repr=False)

    def phase_peaks(self, values: Vector) -> dict[str, tuple[int, Moment]]:
        """The largest moment of each phase."""
        self._used.append(True)
        if len(self._used) == _OFTEN:
            self.moments[:] = _undominated(self.moments)
        peaks: dict[str, tuple[int, Moment]] = {}
        for moment in self.moments:
            size = moment.bytes(values)
            if moment.phase not in peaks or size > peaks[moment.phase][0]:
                peaks[moment.phase] = (size, moment)
        return peaks

    def components(self, moment: Moment, values: Vector) -> dict[str, int]:
        """Live bytes by label at a moment."""
        alive = self._by_label.get(moment)
        if alive is None:
            alive = self._by_label[moment] = self._labels_at(moment)
        sizes = {label: sum(map(operator.mul, vector, values)) for label, vector in alive.items()}
        return {label: size for label, size in sizes.items() if size}

    def _labels_at(self, moment: Moment) -> dict[str, list[int]]:
        alive: dict[str, list[int]] = {}
        for (rows, size, info), weight in zip(self.events, self._weights(moment), strict=False):
            alive.setdefault(info.label, [0] * len(QUANTITIES))[_INDEX[rows]] += weight * size
        return alive

    def _weights(self, moment: Moment) -> Iterator[int]:
        """How often each event up to the moment has happened."""
        index = moment.index
        for position in range(index + 1):
            weight = self.times[position]
            for repeat in self.repeats:
                if repeat.forward[0] <= position < repeat.forward[1]:
                    # inside the stretch its earlier copies have happened as a whole
                    weight = repeat.times
                elif repeat.backward and repeat.backward[0] <= position < repeat.backward[1]:
                    weight = repeat.times if index >= repeat.backward[1] or moment.last else 1
            yield weight
        for repeat in self.repeats:  # the rest of a stretch that the moment lies in, for its earlier copies
            for start, end in (repeat.forward, repeat.backward or (0, 0)):
                if start <= index < end and (repeat.forward == (start, end) or moment.last):
                    for _ in range(index + 1, end):
                        yield repeat.times - 1


def profile_of(tape: Tape) -> Profile:
    """The moments of a recorded step."""
    starts, names = [start for start, _ in tape.phases], [name for _, name in tape.phases]
    times = _times(tape)
    found = [Moment(*each) for each in _local_maxima(tape, starts, names, times)]
    return Profile(found, tuple(tape.events), tuple(tape.repeats), tuple(times))


def _times(tape: Tape) -> list[int]:
    """How many storages an event releases: one, or those of all equal layers at once: at the end of the forward pass (autocast's copies)
    and when the graph goes.
    """
    times = [1] * len(tape.events)
    backward = next((start for start, name in tape.phases if name == "backward"), len(tape.events))
    for repeat in tape.repeats:
        start, end = repeat.forward
        after = repeat.backward[1] if repeat.backward else len(tape.events)
        for index in (*range(repeat.next_end, backward), *range(after, len(tape.events))):
            _, size, info = tape.events[index]
            if size < 0 and start <= info.taken < end:
                times[index] = repeat.times
    return times


def _net(tape: Tape, stretch: tuple[int, int]) -> list[int]:
    net = [0] * len(QUANTITIES)
    for rows, size, _ in tape.events[slice(*stretch)]:
        net[_INDEX[rows]] += size
    return net


def _local_maxima(tape: Tape, starts: list[int], names: list[str], times: list[int]) -> Iterator[tuple[str, Vector, int, bool]]:
    live = [0] * len(QUANTITIES)
    forward = {repeat.forward[0]: repeat for repeat in tape.repeats}
    backward = {repeat.backward[0]: repeat for repeat in tape.repeats if repeat.backward}
    boundaries = {repeat.forward[0] for repeat in tape.repeats} | {repeat.backward[0] for repeat in tape.repeats if repeat.backward}
    boundaries |= {repeat.backward[1] for repeat in tape.repeats if repeat.backward} | set(starts)
    events = tape.events

    def walk(start: int, end: int, *, last: bool) -> Iterator[tuple[str, Vector, int, bool]]:
        for index in range(start, end):
            rows, size, _ = events[index]
            live[_INDEX[rows]] += size * times[index]
            if size > 0 and (index + 1 >= end or events[index + 1][1] < 0 or index + 1 in boundaries):
                phase = names[max(0, bisect.bisect_right(starts, index) - 1)]
                yield phase, tuple(live), index, last

    index = 0
    cuts = sorted(boundaries | {len(events)})
    while index < len(events):
        end = next(cut for cut in cuts if cut > index)
        if index in forward:
            repeat = forward[index]
            for position, size in enumerate(_net(tape, repeat.forward)):
                live[position] += (repeat.times - 1) * size
        if index in backward:
            repeat = backward[index]
            assert repeat.backward is not None  # noqa: S101 - narrows the type
            end = repeat.backward[1]
            before = list(live)
            yield from walk(index, end, last=False)
            net = [after - earlier for after, earlier in zip(live, before, strict=True)]
            live[:] = [earlier + (repeat.times - 1) * change for earlier, change in zip(before, net, strict=True)]
            yield from walk(index, end, last=True)
        else:
            yield from walk(index, end, last=False)
        index = end


def _undominated(moments: list[Moment]) -> list[Moment]:
    kept: dict[str, list[Moment]] = {}
    for moment in sorted(moments, key=lambda each: -sum(each.alive)):
        front = kept.setdefault(moment.phase, [])
        alive = moment.alive
        if not any(all(map(operator.ge, other.alive, alive)) for other in front):
            front.append(moment)
    return [moment for front in kept.values() for moment in front]
