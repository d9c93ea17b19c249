"""The part of transformers' TrainingArguments that several trainers read under the same names, with the recipe's values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftadvise.advisor.export.account import Account


def training_arguments(account: Account, *, checkpointing: Mapping[str, Any], warmup: str) -> dict[str, Any]:
    """From the batch to what is logged.

    Args:
        checkpointing: gradient checkpointing in the trainer's own words.
        warmup: the key of the share of steps that warm up.
    """
    recipe = account.recipe
    return {
        "per_device_train_batch_size": recipe.micro_batch,
        "gradient_accumulation_steps": recipe.gradient_accumulation,
        **checkpointing,
        "optim": recipe.optimizer,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.schedule,
        warmup: recipe.warmup_ratio,
        "max_grad_norm": recipe.max_grad_norm,
        "num_train_epochs": recipe.epochs,
        "max_steps": recipe.max_steps or -1,
        "seed": recipe.seed,
        "bf16": recipe.compute_dtype == "bf16",
        "fp16": recipe.compute_dtype == "fp16",
        **({"use_cpu": True} if account.plan_file.made_for.device == "cpu" else {}),
        "logging_steps": 1,
        "report_to": "none",
    }
