"""One training run of the matrix, built the way it will really run: model, adapter, trainer. Imports torch inside functions only."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.stack import stack_of


@dataclass(frozen=True)
class Case:
    """A recipe on a model under a stack.

    `model` is a hub id of a model card, or, with `config`, any name for that config.json. `padded` makes every second row seven
    tokens shorter, so that batches carry an attention mask. `stack` is "trl", "transformers" or "transformers-kbit".
    """

    name: str
    model: str
    recipe: Recipe
    stack: str = "trl"
    padded: bool = False
    config: dict[str, Any] = field(default_factory=dict, hash=False)


def rows_of(case: Case, vocab_size: int, *, shorter_by: int = 7) -> list[dict[str, list[int]]]:
    """Synthetic token rows for all steps of the recipe, each as long as the recipe allows unless the case is padded."""
    from ftadvise.runner.rehearse import synthetic_rows

    recipe = case.recipe
    rows = synthetic_rows(vocab_size, recipe.seq_len, recipe.sequences_per_step * max(1, recipe.max_steps), recipe.seed)
    if not case.padded:
        return rows
    return [{key: ids[: len(ids) - shorter_by * (number % 2)] for key, ids in row.items()} for number, row in enumerate(rows)]


def build(case: Case, model: Any, device: str, folder: Path) -> Any:
    """The stack's trainer around a loaded base model: casts, adapter, data; ready to `train()`."""
    vocab_size = model.config.get_text_config().vocab_size
    if stack_of(case.stack).upcasts_kbit and case.recipe.quantization != "none":
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    model = adapted(model, case)
    rows = rows_of(case, vocab_size)
    if case.stack == "trl":
        from ftadvise.runner.rehearse import synthetic_tokenizer
        from ftadvise.runner.trainer import build_trainer

        return build_trainer(model, synthetic_tokenizer(vocab_size), rows, case.recipe, device, folder, save=False)
    return _plain_trainer(model, rows, case.recipe, device, folder)


def adapted(model: Any, case: Case) -> Any:
    """The model with the recipe's adapter, as the runner makes it."""
    from ftadvise.runner.adapters import wrap_with_adapter

    return wrap_with_adapter(model, case.recipe, case.model)


def write_config(case: Case, folder: Path) -> None:
    """The case's config.json: its own, or the one that its model card describes.

    Raises:
        InputError: the card does not describe the model completely.
    """
    if case.config:
        (folder / "config.json").write_text(json.dumps(case.config), encoding="utf-8")
        return
    from ftadvise.estimator.trace.model_config import config_of
    from ftadvise.profiles.resolve_model import resolve_model

    config_of(resolve_model(case.model)).save_pretrained(folder)


def _plain_trainer(model: Any, rows: list[dict[str, list[int]]], recipe: Recipe, device: str, folder: Path) -> Any:
    """transformers' own Trainer, as the stacks "transformers" and "transformers-kbit" mean it."""
    from datasets import Dataset
    from transformers import PrinterCallback, Trainer, TrainingArguments

    from ftadvise.runner.rehearse import synthetic_tokenizer
    from ftadvise.runner.trainer import checkpointing

    config = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=recipe.micro_batch,
        per_device_eval_batch_size=recipe.micro_batch,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        max_steps=recipe.max_steps,
        optim=recipe.optimizer,
        bf16=recipe.compute_dtype == "bf16",
        fp16=recipe.compute_dtype == "fp16",
        use_cpu=device == "cpu",
        dataloader_pin_memory=device == "cuda",
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        prediction_loss_only=True,
        **checkpointing(recipe.gradient_checkpointing),
    )
    if recipe.gradient_checkpointing and recipe.method != "full":
        model.enable_input_require_grads()
    trainer = Trainer(model=model, args=config, train_dataset=Dataset.from_list(rows), data_collator=_collator(model, synthetic_tokenizer))
    trainer.remove_callback(PrinterCallback)
    if recipe.method == "adalora":
        from ftadvise.runner.rank_schedule import RankSchedule

        trainer.add_callback(RankSchedule())
    return trainer


def _collator(model: Any, tokenizer_of: Any) -> Any:
    from transformers import DataCollatorForSeq2Seq

    return DataCollatorForSeq2Seq(tokenizer_of(model.config.get_text_config().vocab_size), label_pad_token_id=-100)
