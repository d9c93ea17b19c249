"""What a recipe asks for and the training code refuses: corrected, and named in the estimate's notes, not met as an error in the run."""

from __future__ import annotations

from ftadvise.estimator.estimate_types import Stack
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.tape.experts import converted_names
from ftadvise.profiles.architectures import architectures
from ftadvise.profiles.model_spec import ModelSpec


def corrected(model: ModelSpec, recipe: Recipe, stack: Stack) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe that can run, and a sentence for each change.

    Sources: transformers 5.23 (models without SDPA raise when they are loaded with it), peft 0.21 peft_model.py (prefix tuning and
    checkpointing exclude each other) and tuners/lora/layer.py (ParamWrapper refuses dropout on the experts' fused parameters).
    """
    notes = []
    architecture = architectures().get(model.model_type)
    if recipe.attention == "sdpa" and architecture is not None and not architecture.sdpa:
        recipe = recipe.replace(attention="eager")
        notes.append(f"attention is eager: transformers has no sdpa attention for {model.model_type}")
    if recipe.method == "prefix" and recipe.gradient_checkpointing:
        recipe = recipe.replace(gradient_checkpointing=False)
        notes.append("gradient checkpointing is off: prefix tuning does not work with it")
    if recipe.dropout and not stack.expert_modules and converted_names(model, recipe):
        recipe = recipe.replace(dropout=0.0)
        notes.append("dropout is 0: PEFT refuses it on the experts' fused parameters, which these targets reach")
    return recipe, tuple(notes)
