"""What LLaMA-Factory and TRL share: transformers' TrainingArguments (5.23.0 training_args.py; the defaults are its own)."""

from __future__ import annotations

from typing import Any

from ftadvise.advisor.importing.reader import Reader


def training_arguments(reader: Reader, *, learning_rate: float, optimizer: str) -> dict[str, Any]:
    """The recipe's fields among them."""
    warmup = reader.number("warmup_ratio", 0.0) or reader.number("warmup_steps", 0.0)
    if warmup >= 1:
        steps = reader.whole("max_steps", -1)
        reader.assume("assume_warmup", steps=f"{warmup:g}")
        warmup = min(warmup / steps, 0.99) if steps > 0 else 0.0
    return {
        "micro_batch": reader.whole("per_device_train_batch_size", 8),
        "gradient_accumulation": reader.whole("gradient_accumulation_steps", 1),
        "optimizer": reader.optimizer("optim", optimizer),
        "learning_rate": reader.number("learning_rate", learning_rate),
        "schedule": reader.schedule("lr_scheduler_type", "linear"),
        "warmup_ratio": warmup,
        "max_grad_norm": reader.number("max_grad_norm", 1.0),
        "epochs": reader.number("num_train_epochs", 3.0),
        "max_steps": max(0, reader.whole("max_steps", -1)),
        "seed": reader.whole("seed", 42),
    }
