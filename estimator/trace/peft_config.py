"""The model with the recipe's adapter, on the meta device. Imports peft inside functions."""

from __future__ import annotations

from typing import Any

from ftadvise.estimator.peft_settings import peft_config
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError


def wrap(model: Any, recipe: Recipe, *, like_cuda: bool, constant_ranks: bool = False) -> Any:
    """`model` with the recipe's adapter, its tensors on the meta device, in the dtypes that the runner gives them.

    Raises:
        InputError: as `peft_config`, or the model has none of the target modules.
    """
    import peft
    import torch

    config = peft_config(recipe)
    if config is None:
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        return model
    try:
        with torch.device("meta"):
            wrapped = peft.get_peft_model(model, config, low_cpu_mem_usage=not config.is_prompt_learning)
    except ValueError as error:
        reason = " ".join(str(error).split())[:160]
        if "lora_dropout" in reason:  # PEFT adapts fused expert parameters, but not with dropout
            raise InputError(f"{recipe.method} on this model's fused experts: {reason}", hint="use --dropout 0") from None
        raise InputError(
            f"target_modules {', '.join(recipe.target_modules)}: {reason}", hint=f"this model has {', '.join(sorted(_linear_names(model)))}"
        ) from None
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[recipe.adapter_dtype]
    # AdaLoRA's rank becomes a new parameter, which is trained, where PEFT moves or casts it (_move_adapter_to_device_of_base_layer)
    moves = not constant_ranks and (like_cuda or (recipe.compute_dtype != "fp32" and recipe.quantization != "int8"))
    for name, parameter in wrapped.named_parameters():
        is_rank = ".ranknum." in name
        parameter.requires_grad_(moves if is_rank else parameter.requires_grad)
        # bf16 cannot hold the small updates of DoRA's magnitude
        if (parameter.requires_grad and "lora_magnitude_vector" not in name) or (is_rank and constant_ranks):
            parameter.data = parameter.data.to(dtype)
    return wrapped


def _linear_names(model: Any) -> list[str]:
    """Last names of the linear layers but the head, as "all-linear" takes them."""
    head = model.get_output_embeddings()
    kinds = ("Linear", "Linear4bit", "Linear8bitLt", "Conv1D")
    return sorted(
        {name.rpartition(".")[2] for name, module in model.named_modules() if type(module).__name__ in kinds and module is not head}
    )
