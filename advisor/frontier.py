"""The fit frontier: the recommended recipe at other sequence lengths and micro batches, as far as they fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ftadvise.estimator.estimate_types import Estimate
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import FtadviseError

_SHORTEST, _LONGEST = 256, 1 << 20
_MOST_ROWS, _MOST_COLUMNS = 9, 7


@dataclass(frozen=True, slots=True)
class Frontier:
    """A grid of estimates. `rows[i][j]` is the recipe with `seq_lens[i]` tokens per sequence and `micro_batches[j]` sequences per pass;
    None where the estimator refuses it. The recipe's own place is always among them."""

    seq_lens: tuple[int, ...]
    micro_batches: tuple[int, ...]
    rows: tuple[tuple[Estimate | None, ...], ...]


def fit_frontier(estimate: Estimate, price: Callable[[Recipe], Estimate]) -> Frontier:
    """Price the recipe at doubling sequence lengths and micro batches, up to the first of each that fits nowhere.

    The number of sequences per optimizer step stays, as far as the micro batch allows: accumulation takes what the micro batch leaves.
    Lengths end at the model's positions, unless the recipe itself is longer.

    Args:
        price: the estimate of a recipe for the same model, machine and stack; called for at most 63 recipes, each some milliseconds.
    """
    recipe, positions = estimate.recipe, estimate.model.max_position or _LONGEST

    def priced(seq_len: int, micro_batch: int) -> Estimate | None:
        passes = max(1, recipe.micro_batch * recipe.gradient_accumulation // micro_batch)
        try:
            return price(recipe.replace(seq_len=seq_len, micro_batch=micro_batch, gradient_accumulation=passes))
        except FtadviseError:  # longer than the estimator's kernels reach, for example
            return None

    lengths = _doubling(_SHORTEST, recipe.seq_len, min(_LONGEST, max(positions, recipe.seq_len)), _MOST_ROWS)
    lengths = _until_none_fits(lengths, recipe.seq_len, lambda seq_len: priced(seq_len, 1))
    batches = _doubling(1, recipe.micro_batch, 1 << 16, _MOST_COLUMNS)
    batches = _until_none_fits(batches, recipe.micro_batch, lambda micro_batch: priced(lengths[0], micro_batch))
    return Frontier(lengths, batches, tuple(tuple(priced(seq_len, micro) for micro in batches) for seq_len in lengths))


def _doubling(start: int, own: int, limit: int, most: int) -> tuple[int, ...]:
    """`own` among powers of two from `start` (or from the largest one below `own` that keeps it in sight) to `limit`."""
    first = min(start, own)
    while first << (most - 2) < own:
        first <<= 1
    powers = {first << step for step in range(most) if first << step <= limit}
    return tuple(sorted(powers | {own})[:most])


def _until_none_fits(sizes: tuple[int, ...], own: int, priced: Callable[[int], Estimate | None]) -> tuple[int, ...]:
    """The sizes up to the first that does not fit, which stays to show where it ends; never fewer than up to `own`."""
    for index, size in enumerate(sizes):
        if size >= own:
            estimate = priced(size)
            if estimate is None or not estimate.memory.fits:
                return sizes[: index + 1]
    return sizes
