"""What a recipe leaves open and PEFT has no default for; the trace and the analytic model both configure methods by it."""

from __future__ import annotations

from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError

VIRTUAL_TOKENS = 20
"""Of prefix and prompt tuning: what the examples in PEFT's documentation use."""

FEEDFORWARD_MODULES = frozenset({"down_proj", "fc2", "fc_out", "dense_4h_to_h", "wo", "w2", "output_linear"})
"""Linear layers whose input, not output, IA3 scales: the last of each MLP."""


def adapter_rank(recipe: Recipe) -> int:
    """The rank that adapters have in memory: AdaLoRA's start half above their target and are masked, not shrunk."""
    return recipe.rank + recipe.rank // 2 if recipe.method == "adalora" else recipe.rank


def virtual_tokens(recipe: Recipe) -> tuple[int, int]:
    """(of prompt tuning, of prefix tuning): how many every sequence gets."""
    return (VIRTUAL_TOKENS if recipe.method == "prompt" else 0, VIRTUAL_TOKENS if recipe.method == "prefix" else 0)


def check_method(recipe: Recipe) -> None:
    """Raise InputError where PEFT cannot train with this method and these settings (peft_model.py, PeftModelForCausalLM)."""
    if recipe.method == "prefix" and recipe.gradient_checkpointing:
        raise InputError("prefix tuning does not work with gradient checkpointing", hint="use --no-gradient-checkpointing")
