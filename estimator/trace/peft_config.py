"""A recipe's method as PEFT configures it. Imports peft inside functions."""

from __future__ import annotations

from typing import Any

from ftadvise.estimator.peft_settings import FEEDFORWARD_MODULES, VIRTUAL_TOKENS, adapter_rank, check_method
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError


def peft_config(model: Any, recipe: Recipe) -> Any | None:
    """The PEFT config of `recipe` for `model`, or None for full fine-tuning.

    Raises:
        InputError: PEFT has no such method (bottleneck adapters), or it cannot be combined with the rest of the recipe.
    """
    import peft

    check_method(recipe)
    targets: Any = "all-linear" if recipe.target_modules == ("all-linear",) else list(recipe.target_modules)
    method = recipe.method
    if method == "full":
        return None
    if method in ("lora", "dora"):
        return peft.LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules=targets,
            use_dora=method == "dora",
            bias="none",
            task_type="CAUSAL_LM",
        )
    if method == "adalora":  # the ranks start above the target and are pruned to it
        steps = recipe.max_steps or 1000
        return peft.AdaLoraConfig(
            init_r=adapter_rank(recipe),
            target_r=recipe.rank,
            total_step=max(10, steps),
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules=targets,
            task_type="CAUSAL_LM",
        )
    if method == "ia3":
        names = _linear_names(model) if targets == "all-linear" else targets
        return peft.IA3Config(
            target_modules=names, feedforward_modules=[name for name in names if name in FEEDFORWARD_MODULES], task_type="CAUSAL_LM"
        )
    if method == "prompt":
        return peft.PromptTuningConfig(num_virtual_tokens=VIRTUAL_TOKENS, task_type="CAUSAL_LM")
    if method == "prefix":
        return peft.PrefixTuningConfig(num_virtual_tokens=VIRTUAL_TOKENS, task_type="CAUSAL_LM")
    raise InputError(f"method {method}: PEFT has no bottleneck adapters, so there is nothing to trace", hint="use method lora")


def wrap(model: Any, recipe: Recipe, *, like_cuda: bool) -> Any:
    """`model` with the recipe's adapter, its tensors on the meta device, in the dtypes that the runner gives them.

    Raises:
        InputError: as `peft_config`, or the model has none of the target modules.
    """
    import peft
    import torch

    config = peft_config(model, recipe)
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
    moves = like_cuda or (recipe.compute_dtype != "fp32" and recipe.quantization != "int8")
    for name, parameter in wrapped.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or (moves and ".ranknum." in name))
        # bf16 cannot hold the small updates of DoRA's magnitude
        if parameter.requires_grad and "lora_magnitude_vector" not in name:
            parameter.data = parameter.data.to(dtype)
    return wrapped


def _linear_names(model: Any) -> list[str]:
    """Last names of the linear layers but the head, as "all-linear" takes them."""
    head = model.get_output_embeddings()
    kinds = ("Linear", "Linear4bit", "Linear8bitLt", "Conv1D")
    return sorted(
        {name.rpartition(".")[2] for name, module in model.named_modules() if type(module).__name__ in kinds and module is not head}
    )
