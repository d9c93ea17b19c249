"""Token lengths of the training examples: the longest batch decides memory, the average batch decides time."""

from __future__ import annotations

import dataclasses
import functools
import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ftadvise.estimator.recipe import Recipe

if TYPE_CHECKING:
    from ftadvise.estimator.estimate_types import Estimate

_MULTIPLE = 64
"""A sequence length taken from the data is a multiple of this: the unit in which matmul kernels divide their rows, with some slack for text
that is a little longer than what was measured."""


@dataclass(frozen=True, slots=True)
class LengthStats:
    """The distribution of the examples' lengths in tokens, before truncation. Sorted; never empty.

    `measured`: with the model's own tokenizer; otherwise estimated from the text.
    """

    lengths: tuple[int, ...] = field(repr=False)
    measured: bool

    @classmethod
    def of(cls, lengths: Iterable[int], *, measured: bool) -> LengthStats:
        """The statistics of lengths in any order.

        Raises:
            ValueError: there are none.
        """
        ordered = tuple(sorted(lengths))
        if not ordered:
            raise ValueError("no lengths")
        return cls(ordered, measured)

    @property
    def examples(self) -> int:
        """How many examples there are."""
        return len(self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest example."""
        return self.lengths[-1]

    @property
    def mean(self) -> float:
        """Mean tokens of an example."""
        return sum(self.lengths) / len(self.lengths)

    @property
    def covering_seq_len(self) -> int:
        """The sequence length that cuts nothing: the longest example, rounded up to a multiple of 64."""
        return max(1, math.ceil(self.longest / _MULTIPLE)) * _MULTIPLE

    def percentile(self, percent: float) -> int:
        """The smallest length that at least `percent` % of the examples do not exceed (nearest rank)."""
        return self.lengths[max(1, math.ceil(percent / 100 * len(self.lengths))) - 1]

    def truncated(self, seq_len: int) -> int:
        """How many examples are longer than `seq_len`."""
        return len(self.lengths) - bisect_right(self.lengths, seq_len)

    def padded_length(self, sequences: int, seq_len: int) -> float:
        """Mean length in tokens to which a micro batch of `sequences` examples is padded, which is that of its longest example.

        A batch of a shuffled epoch is any n of the N examples with equal probability, so the example of rank r (1 = shortest) is its
        longest in C(r-1, n-1) of the C(N, n) batches: exactly

            E[max] = sum over r of min(length_r, seq_len) C(r-1, n-1) / C(N, n),    n = 1 gives the mean.
        """
        return _expected_longest(self.lengths, min(sequences, len(self.lengths)), seq_len)

    def packed_sequences(self, seq_len: int) -> int:
        """Sequences of `seq_len` tokens that the examples fill when they are packed without gaps (the fewest there can be)."""
        return max(1, math.ceil(sum(min(length, seq_len) for length in self.lengths) / seq_len))

    def to_json(self, recipe: Recipe) -> dict[str, Any]:
        """JSON-ready, as `data` of a plan or an estimate: lengths in tokens; `truncated` examples are longer than seq_len."""
        return {
            "examples": self.examples,
            "shortest": self.lengths[0],
            "longest": self.longest,
            "mean": round(self.mean, 1),
            "p50": self.percentile(50),
            "p90": self.percentile(90),
            "p99": self.percentile(99),
            "measured": self.measured,
            "truncated": self.truncated(recipe.seq_len),
            "mean_batch_length": round(self.batch_length(recipe), 1),
        }

    def batch_length(self, recipe: Recipe) -> float:
        """Mean length in tokens of the recipe's micro batches: packed to seq_len, or padded to the longest example of each."""
        return float(recipe.seq_len) if recipe.packing else self.padded_length(recipe.micro_batch, recipe.seq_len)


@functools.lru_cache(maxsize=64)  # a search asks for a few batch sizes again and again
def _expected_longest(lengths: tuple[int, ...], drawn: int, limit: int) -> float:
    """The sum of `LengthStats.padded_length`."""
    share, expected = drawn / len(lengths), 0.0
    for rank in range(len(lengths), drawn - 1, -1):
        expected += share * min(lengths[rank - 1], limit)
        share *= (rank - drawn) / max(1, rank - 1)  # C(r-2, n-1) / C(r-1, n-1)
    return expected


def at_mean_length(estimate: Estimate, lengths: LengthStats | None) -> Estimate:
    """The estimate with the time of an average batch of the data. Memory stays that of the longest batch; without data nothing changes."""
    if lengths is None:
        return estimate
    from ftadvise.estimator.activations import batch_of  # the lengths alone are wanted without the whole estimator
    from ftadvise.estimator.throughput import estimate_throughput

    recipe = estimate.recipe
    padded = lengths.batch_length(recipe)
    batch = None if recipe.packing else dataclasses.replace(batch_of(recipe, estimate.stack), seq_len=max(1, math.ceil(padded)))
    speed = estimate_throughput(estimate.model, estimate.hardware, recipe, estimate.stack, batch=batch)
    if speed is not None:
        useful = sum(min(length, recipe.seq_len) for length in lengths.lengths) / lengths.examples
        speed = dataclasses.replace(speed, useful_share=1.0 if recipe.packing else min(1.0, useful / padded))
    return dataclasses.replace(estimate, throughput=speed)
