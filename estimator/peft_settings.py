"""A recipe's method as PEFT configures it, with what a recipe leaves open: the runner, the trace and the analytic model all go by this."""

from __future__ import annotations

from typing import Any

from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError

VIRTUAL_TOKENS = 20
"""Of prefix and prompt tuning: what the examples in PEFT's documentation use."""

FEEDFORWARD_MODULES = frozenset({"down_proj", "fc2", "fc_out", "dense_4h_to_h", "wo", "w2", "output_linear"})
"""Linear layers whose input, not output, IA3 scales: the last of each MLP."""

LAST_PROJECTIONS = FEEDFORWARD_MODULES | {"o_proj", "out_proj", "dense", "c_proj"}
"""Linear layers that bottleneck adapters stand behind: the last of each attention and MLP block."""


def adapter_rank(recipe: Recipe) -> int:
    """The rank that adapters have in memory: AdaLoRA's start half above their target and are masked, not shrunk."""
    return recipe.rank + max(1, recipe.rank // 2) if recipe.method == "adalora" else recipe.rank


def virtual_tokens(recipe: Recipe) -> tuple[int, int]:
    """(of prompt tuning, of prefix tuning): how many every sequence gets."""
    return (VIRTUAL_TOKENS if recipe.method == "prompt" else 0, VIRTUAL_TOKENS if recipe.method == "prefix" else 0)


def adalora_schedule(total_steps: int) -> dict[str, int]:
    """PEFT's fields for when AdaLoRA prunes: not in the first tenth of the steps, at most a hundred times, and done by 70 %.

    PEFT's own defaults begin at once and prune until the last step, which leaves nothing to recover in; the paper has all three phases
    (Zhang et al. 2023, arXiv 2303.10512, equation 12). The shares are a choice.
    """
    total = max(1, total_steps)
    warmup, final = total // 10, total * 3 // 10
    return {"total_step": total, "tinit": warmup, "tfinal": final, "deltaT": max(1, (total - warmup - final) // 100)}


def check_method(recipe: Recipe) -> None:
    """Raise InputError where PEFT cannot train with this method and these settings (peft_model.py, PeftModelForCausalLM)."""
    if recipe.method == "prefix" and recipe.gradient_checkpointing:
        raise InputError("prefix tuning does not work with gradient checkpointing", hint="use --no-gradient-checkpointing")
    if recipe.method == "adapter" and recipe.target_modules != ("all-linear",):
        others = [name for name in recipe.target_modules if name not in LAST_PROJECTIONS]
        if others:
            raise InputError(
                f"target_modules {', '.join(others)}: a bottleneck adapter stands behind the last projection of a block",
                hint="use all-linear, or names such as o_proj,down_proj",
            )


def adapter_arguments(recipe: Recipe, *, total_steps: int | None = None) -> tuple[str, dict[str, Any]] | None:
    """The name of PEFT's config class and every argument it gets, or None for full fine-tuning.

    Args:
        total_steps: optimizer steps of the whole run, over which AdaLoRA prunes its ranks; None where nothing is trained.

    Raises:
        InputError: the method cannot be combined with the rest of the recipe.
    """
    check_method(recipe)
    targets: Any = "all-linear" if recipe.target_modules == ("all-linear",) else list(recipe.target_modules)
    task: dict[str, Any] = {"task_type": "CAUSAL_LM"}
    common = {"target_modules": targets, **task}
    like_lora = {"lora_alpha": recipe.alpha, "lora_dropout": recipe.dropout, "bias": "none", **common}
    match recipe.method:
        case "full":
            return None
        case "lora" | "dora":
            return "LoraConfig", {"r": recipe.rank, "use_rslora": recipe.rslora, "use_dora": recipe.method == "dora", **like_lora}
        case "adalora":  # the ranks start above the target and are pruned to it
            schedule = adalora_schedule(total_steps or recipe.max_steps or 1000)
            return "AdaLoraConfig", {"init_r": adapter_rank(recipe), "target_r": recipe.rank, **schedule, **like_lora}
        case "ia3":
            # as a pattern: PEFT refuses a list that names more than the target modules when it loads the adapter
            return "IA3Config", {"feedforward_modules": _ending_in(FEEDFORWARD_MODULES), **common}
        case "prompt":
            return "PromptTuningConfig", {"num_virtual_tokens": VIRTUAL_TOKENS, **task}
        case "prefix":
            return "PrefixTuningConfig", {"num_virtual_tokens": VIRTUAL_TOKENS, **task}
        case "adapter":
            names = _ending_in(LAST_PROJECTIONS) if targets == "all-linear" else targets
            return "BottleneckConfig", {"rank": recipe.rank, "target_modules": names, **task}


def peft_config(recipe: Recipe, *, total_steps: int | None = None) -> Any | None:
    """`adapter_arguments` as the config object. Imports peft, and tells it of bottleneck adapters, which it has not."""
    import peft

    found = adapter_arguments(recipe, total_steps=total_steps)
    if found is None:
        return None
    name, arguments = found
    if recipe.method != "adapter":
        return getattr(peft, name)(**arguments)
    from ftadvise.estimator.bottleneck_tuner import BottleneckConfig, register

    register()
    return BottleneckConfig(**arguments)


def _ending_in(names: frozenset[str]) -> str:
    """The regular expression of module names whose last part is one of these."""
    return rf"(.*\.)?({'|'.join(sorted(names))})"


def orthogonality_penalty(model: Any) -> Any:
    """AdaLoRA's penalty on a PEFT-wrapped model, a scalar tensor: the mean of |P Pt - I| over every A and B, times PEFT's weight.

    PEFT adds it to the loss that the model returns, which TRL does not use. Source: peft 0.21 tuners/adalora/model.py (forward).
    """
    import torch

    terms = []
    for name, parameter in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            product = parameter @ parameter.T if ".lora_A." in name else parameter.T @ parameter
            terms.append(torch.linalg.matrix_norm(product - torch.eye(len(product), dtype=product.dtype, device=product.device)))
    return model.peft_config["default"].orth_reg_weight * torch.stack(terms).mean()
