"""A recipe as TRL's SFTTrainer. Every field of the recipe is set explicitly; nothing is left to a default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError
from ftadvise.runner.adapters import cast_adapter
from ftadvise.runner.model_probe import check_packing

_SAVES_PER_RUN = 5


def sft_arguments(
    recipe: Recipe, device: str, checkpoints: Path, *, save: bool, evaluate: bool = False, extra: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Every argument of SFTConfig that the run sets.

    Args:
        device: "cpu" or "cuda".
        save: write checkpoints into `checkpoints`, a fifth of the run apart.
        evaluate: evaluate at the same moments.
        extra: arguments that take precedence, such as those of a sharding.
    """
    compute = recipe.compute_dtype
    often = {"save_steps": 1 / _SAVES_PER_RUN, "eval_steps": 1 / _SAVES_PER_RUN}  # below 1 it is a share of all steps
    return {
        "output_dir": str(checkpoints),
        "per_device_train_batch_size": recipe.micro_batch,
        "per_device_eval_batch_size": recipe.micro_batch,
        "gradient_accumulation_steps": recipe.gradient_accumulation,
        "max_length": recipe.seq_len,
        "packing": recipe.packing,
        "optim": recipe.optimizer,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.schedule,
        "warmup_steps": recipe.warmup_ratio,  # below 1 it is a share of all steps
        "max_grad_norm": recipe.max_grad_norm,
        "num_train_epochs": recipe.epochs,
        "max_steps": recipe.max_steps or -1,
        "seed": recipe.seed,
        "bf16": compute == "bf16",  # autocast, as TRL's default; off for fp32, where TRL would switch it on
        "fp16": compute == "fp16",
        "use_cpu": device == "cpu",
        "dataloader_pin_memory": device == "cuda",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # a loss that is not a number must be seen
        "disable_tqdm": True,
        "report_to": "none",
        "save_strategy": "steps" if save else "no",
        "save_total_limit": 1,
        "eval_strategy": "steps" if evaluate else "no",
        "prediction_loss_only": True,
        **often,
        **checkpointing(recipe.gradient_checkpointing),
        **(extra or {}),
    }


def build_trainer(
    model: Any,
    tokenizer: Any,
    rows: list[dict[str, list[int]]],
    recipe: Recipe,
    device: str,
    checkpoints: Path,
    *,
    save: bool,
    eval_rows: list[dict[str, list[int]]] | None = None,
    trainer_class: type[Any] | None = None,
    extra_arguments: dict[str, Any] | None = None,
) -> Any:
    """The trainer, ready to `train()`. `rows` and `eval_rows` hold `input_ids` and `labels`; TRL truncates and packs them.

    Args:
        trainer_class: a subclass of SFTTrainer; default SFTTrainer itself.
        extra_arguments: of SFTConfig, in place of the recipe's own.

    Raises:
        InputError: nothing is left to train on after truncation.
    """
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    if recipe.packing:
        check_packing(model, whole=recipe.sharding not in ("zero3", "fsdp"))
    config = SFTConfig(**sft_arguments(recipe, device, checkpoints, save=save, evaluate=bool(eval_rows), extra=extra_arguments))
    config._n_gpu = min(config.n_gpu, 1)  # one process, one GPU: the trainer would otherwise wrap all visible ones
    trainer_class, callbacks = trainer_class or SFTTrainer, []
    if recipe.method == "adalora":
        from ftadvise.runner.rank_schedule import RankSchedule, with_penalty

        trainer_class, callbacks = with_penalty(trainer_class), [RankSchedule()]
    trainer = trainer_class(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(eval_rows) if eval_rows else None,
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    if len(trainer.train_dataset) == 0:
        raise InputError(f"within seq_len {recipe.seq_len} no row has anything left to learn", hint="raise seq_len")
    trainer.remove_callback(PrinterCallback)
    cast_adapter(trainer.model, recipe)
    return trainer


def checkpointing(enabled: bool) -> dict[str, Any]:
    """Gradient checkpointing under the name this transformers has for it (renamed in 5.x; both values must be said)."""
    import dataclasses

    from transformers import TrainingArguments

    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    prefix = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    return {prefix: enabled, f"{prefix}_kwargs": {"use_reentrant": False} if enabled else None}
