"""What a run does after it ran out of memory: the next recipe that needs less and trains the same.

Only changes that leave the training itself alone: the sequences of an optimizer step, the weights and the numbers they are trained with
stay. What would change the result (shorter sequences, a quantised base, another optimizer) is the user's decision; it is named instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ftadvise.estimator.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Fallback:
    """The recipe to go on with, and the fields that changed as {name: [before, now]}."""

    recipe: Recipe
    changes: dict[str, list[Any]]

    def __str__(self) -> str:
        return ", ".join(f"{name} {_shown(before)} -> {_shown(now)}" for name, (before, now) in self.changes.items())


def next_recipe(recipe: Recipe) -> Fallback | None:
    """The next smaller recipe, or None when nothing is left that trains the same.

    First the micro batch is divided by its smallest prime factor and gradient accumulation multiplied by it (exactly as many sequences per
    step, a little slower); then gradient checkpointing is switched on (about a third more time). Prefix tuning works without
    checkpointing only.
    """
    if recipe.micro_batch > 1:
        factor = next(n for n in range(2, recipe.micro_batch + 1) if recipe.micro_batch % n == 0)
        return _changed(recipe, micro_batch=recipe.micro_batch // factor, gradient_accumulation=recipe.gradient_accumulation * factor)
    if not recipe.gradient_checkpointing and recipe.method != "prefix":
        return _changed(recipe, gradient_checkpointing=True)
    return None


def advice(recipe: Recipe) -> str:
    """What a user may lower in the plan, mildest first."""
    lower = []
    smaller = next_recipe(recipe)
    while smaller is not None:
        lower.append(" with ".join(f"{name}: {_shown(now)}" for name, (_, now) in smaller.changes.items()))
        smaller = next_recipe(smaller.recipe) if len(lower) < 2 else None
    lower.append(f"seq_len: {max(1, recipe.seq_len // 2)}")
    if recipe.method != "full" and recipe.quantization == "none":
        lower.append("quantization: nf4")
    return "lower one of these in the plan, in this order: " + "; ".join(lower)


def _changed(recipe: Recipe, **values: Any) -> Fallback:
    return Fallback(recipe.replace(**values), {name: [getattr(recipe, name), value] for name, value in values.items()})


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
