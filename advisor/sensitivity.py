"""Sensitivity: what the next longer sequence, larger batch or higher rank would cost."""

from __future__ import annotations

import itertools
from typing import Any

from ftadvise.advisor.plan_types import PlanRequest, Variation
from ftadvise.advisor.search import Price
from ftadvise.advisor.texts import message
from ftadvise.estimator.estimate_types import Estimate
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import FtadviseError


def sensitivity(estimate: Estimate, request: PlanRequest, price: Price) -> tuple[Variation, ...]:
    """The recipe with one size doubled, for each size that matters, then the longest sequences that fit.

    Where the data is known to be covered by the sequence length, longer sequences are left out. Flags do not matter: the table says what
    changing them would cost.
    """
    recipe = estimate.recipe
    covered = request.lengths is not None and request.lengths.truncated(recipe.seq_len) == 0
    room = estimate.model.max_position or recipe.seq_len
    rows: list[tuple[str, dict[str, Any]]] = []
    if not covered and 2 * recipe.seq_len <= room:
        rows.append(("seq_len", {"seq_len": 2 * recipe.seq_len}))
    accumulation = recipe.gradient_accumulation
    halved = accumulation // 2 if accumulation > 1 else 1
    rows.append(("micro_batch", {"micro_batch": 2 * recipe.micro_batch, "gradient_accumulation": halved}))
    if recipe.method != "full":
        rows.append(("rank", {"rank": 2 * recipe.rank, "alpha": 2 * recipe.alpha}))
    found = []
    for field, changes in rows:
        other = _priced(recipe, changes, price)
        if other is not None:
            found.append(Variation(field, message(f"vary_{field}", **_sizes(other.recipe)), other))
    if estimate.hardware.gpu and not covered and "seq_len" not in request.fixed:
        longest = _longest_that_fits(estimate, price, request)
        if longest is not None and all(each.estimate.recipe != longest.recipe for each in found):
            found.append(Variation("longest", message("vary_longest", **_sizes(longest.recipe)), longest))
    return tuple(found)


def _sizes(recipe: Recipe) -> dict[str, Any]:
    return {
        "seq_len": f"{recipe.seq_len:,}",
        "micro_batch": recipe.micro_batch,
        "accumulation": recipe.gradient_accumulation,
        "rank": recipe.rank,
    }


def _priced(recipe: Recipe, changes: dict[str, Any], price: Price) -> Estimate | None:
    try:
        return price(recipe.replace(**changes))
    except FtadviseError:  # this model, machine or stack cannot
        return None


def _longest_that_fits(estimate: Estimate, price: Price, request: PlanRequest) -> Estimate | None:
    """The recipe with its sequence length doubled as often as it fits, as lean as the user's flags allow; None when no doubling fits."""
    changes: dict[str, Any] = {
        "micro_batch": 1,
        "gradient_checkpointing": True,
        "gradient_accumulation": estimate.recipe.sequences_per_step,
    }
    lean = estimate.recipe.replace(**{name: value for name, value in changes.items() if name not in request.fixed})
    longest = None
    for n in itertools.count(1):
        seq_len = lean.seq_len << n
        if seq_len > (estimate.model.max_position or 0):
            return longest
        longer = price(lean.replace(seq_len=seq_len))
        if longer.memory.verdict != "fits":
            return longest
        longest = longer
    return longest
