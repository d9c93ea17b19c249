"""The recipe's fine-tuning method on a loaded model: PEFT's config, the wrapped model, the adapter's dtype. Imports peft late."""

from __future__ import annotations

from typing import Any

from ftadvise.estimator.peft_settings import peft_config
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError
from ftadvise.runner.load_model import torch_dtype
from ftadvise.runner.model_probe import check_prefix
from ftadvise.runner.quiet import ignoring

# A library calling another's old name, GPT-2's transposed layers, what PEFT itself wrote for fused experts: nothing a user could change.
PEFT_WARNINGS = (
    r"`is_gradient_checkpointing` is deprecated",
    r"fan_in_fan_out is set to",
    r"The following (rank|alpha)_pattern keys did not match",
)


def adapter_config(recipe: Recipe, *, total_steps: int | None = None) -> Any | None:
    """PEFT's config of the recipe's method, None for full fine-tuning.

    Args:
        total_steps: optimizer steps of the whole run, as far as they are known; AdaLoRA's schedule is set again when training begins.

    Raises:
        InputError: the method cannot be combined with the rest of the recipe.
    """
    return peft_config(recipe, total_steps=total_steps)


def wrap_with_adapter(model: Any, recipe: Recipe, base_name: str, *, total_steps: int | None = None) -> Any:
    """`model` with the recipe's adapter, which will name `base_name` as its base model; unchanged for full fine-tuning.

    Raises:
        InputError: the model has none of the target modules, or the method cannot be combined with the rest of the recipe.
    """
    config = adapter_config(recipe, total_steps=total_steps)
    if config is None:
        return model
    from peft import get_peft_model
    from transformers import set_seed

    set_seed(recipe.seed)  # the adapter begins with random numbers; the trainer seeds too late for them
    try:
        with ignoring(*PEFT_WARNINGS):
            wrapped = get_peft_model(model, config)
    except ValueError as error:
        reason = " ".join(str(error).split())[:160]
        if "lora_dropout" in reason:  # PEFT adapts the fused parameters of experts, but not with dropout
            raise InputError(f"{recipe.method} on this model's fused experts: {reason}", hint="use --dropout 0") from None
        if "ParamWrapper" in reason:
            hint = "use method lora, or name the attention layers in target_modules"
            raise InputError(f"{recipe.method} on this model's fused experts: {reason}", hint=hint) from None
        linear = sorted({name.rpartition(".")[2] for name, module in model.named_modules() if type(module).__name__.startswith("Linear")})
        raise InputError(
            f"target_modules {', '.join(recipe.target_modules)}: {reason}", hint=f"this model has {', '.join(linear)}"
        ) from None
    if recipe.method == "prefix":
        check_prefix(wrapped)
    wrapped.peft_config["default"].base_model_name_or_path = base_name  # PEFT would name the folder it was loaded from
    return wrapped


def cast_adapter(model: Any, recipe: Recipe) -> None:
    """Give the adapter the recipe's dtype: PEFT makes it fp32, TRL makes it bf16 on a quantised base; neither asks.

    The magnitude vector of DoRA stays fp32: bf16 cannot hold its small updates. AdaLoRA's rank, a number that is not saved, becomes a
    trained parameter wherever PEFT moves it to the base layer's device or dtype (peft 0.21): here it stays the constant it is meant to be.
    """
    if recipe.method == "full":
        return
    dtype = torch_dtype(recipe.adapter_dtype)
    for name, parameter in model.named_parameters():
        if ".ranknum." in name:
            parameter.requires_grad_(False)
            parameter.data = parameter.data.to(dtype)
        elif parameter.requires_grad and "lora_magnitude_vector" not in name:
            parameter.data = parameter.data.to(dtype)
