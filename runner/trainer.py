"""A recipe as TRL's SFTTrainer with a PEFT adapter. Every field of the recipe is set explicitly; nothing is left to a default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError
from ftadvise.runner.load_model import torch_dtype
from ftadvise.runner.quiet import ignoring

_SAVES_PER_RUN = 5

# One library calling another's old name: nothing the user could do anything about.
PEFT_WARNINGS = (r"`is_gradient_checkpointing` is deprecated",)


def wrap_with_adapter(model: Any, recipe: Recipe, base_name: str) -> Any:
    """`model` with the recipe's LoRA (or DoRA) adapter; unchanged for full fine-tuning.

    Raises:
        InputError: the model has none of the target modules.
    """
    if recipe.method == "full":
        return model
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    set_seed(recipe.seed)  # the adapter begins with random numbers; the trainer seeds too late for them
    targets: Any = "all-linear" if recipe.target_modules == ("all-linear",) else list(recipe.target_modules)
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=targets,
        use_dora=recipe.method == "dora",
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        with ignoring(*PEFT_WARNINGS):
            wrapped = get_peft_model(model, config)
    except ValueError as error:
        linear = sorted({name.rpartition(".")[2] for name, module in model.named_modules() if type(module).__name__.startswith("Linear")})
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"target_modules {', '.join(recipe.target_modules)}: {reason}", hint=f"this model has {', '.join(linear)}"
        ) from None
    wrapped.peft_config["default"].base_model_name_or_path = base_name  # PEFT would name the folder it was loaded from
    return wrapped


def build_trainer(
    model: Any, tokenizer: Any, rows: list[dict[str, list[int]]], recipe: Recipe, device: str, checkpoints: Path, *, save: bool
) -> Any:
    """The trainer, ready to `train()`. `rows` hold `input_ids` and `labels`; TRL truncates and packs them.

    Raises:
        InputError: nothing is left to train on after truncation.
    """
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    compute = recipe.compute_dtype
    config = SFTConfig(
        output_dir=str(checkpoints),
        per_device_train_batch_size=recipe.micro_batch,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        max_length=recipe.seq_len,
        packing=recipe.packing,
        optim=recipe.optimizer,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.warmup_ratio,  # below 1 it is a share of all steps
        max_grad_norm=recipe.max_grad_norm,
        num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps or -1,
        seed=recipe.seed,
        bf16=compute == "bf16",  # autocast, as TRL's default; off for fp32, where TRL would switch it on
        fp16=compute == "fp16",
        use_cpu=device == "cpu",
        dataloader_pin_memory=device == "cuda",
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is not a number must be seen
        disable_tqdm=True,
        report_to="none",
        save_strategy="steps" if save else "no",
        save_steps=1 / _SAVES_PER_RUN,  # below 1 it is a share of all steps
        save_total_limit=1,
        **_checkpointing(recipe.gradient_checkpointing),
    )
    config._n_gpu = min(config.n_gpu, 1)  # one process, one GPU: the trainer would otherwise wrap all visible ones
    trainer = SFTTrainer(model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    if len(trainer.train_dataset) == 0:
        raise InputError(f"within seq_len {recipe.seq_len} no row has anything left to learn", hint="raise seq_len")
    trainer.remove_callback(PrinterCallback)
    _cast_adapter(trainer.model, recipe)
    return trainer


def _cast_adapter(model: Any, recipe: Recipe) -> None:
    """Give the adapter the recipe's dtype: PEFT makes it fp32, TRL makes it bf16 on a quantised base; neither asks.

    The magnitude vector of DoRA stays fp32: bf16 cannot hold its small updates.
    """
    if recipe.method == "full":
        return
    dtype = torch_dtype(recipe.adapter_dtype)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_magnitude_vector" not in name:
            parameter.data = parameter.data.to(dtype)


def _checkpointing(enabled: bool) -> dict[str, Any]:
    """Gradient checkpointing under the name this transformers has for it (renamed in 5.x; both values must be said)."""
    import dataclasses

    from transformers import TrainingArguments

    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    prefix = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    return {prefix: enabled, f"{prefix}_kwargs": {"use_reentrant": False} if enabled else None}
