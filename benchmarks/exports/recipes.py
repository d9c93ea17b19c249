"""Plans that between them hold every value of every field of the recipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from ftadvise.estimator import recipe as words
from ftadvise.estimator.data_settings import DataSettings
from ftadvise.estimator.plan_file import MadeFor, PlanFile
from ftadvise.estimator.recipe import Recipe

LORA = Recipe()
QLORA = Recipe(quantization="nf4", double_quantization=True, adapter_dtype="bf16")
FULL = Recipe(method="full", learning_rate=1e-5)
ZERO3 = Recipe(sharding="zero3", adapter_dtype="bf16")
ZERO2 = Recipe(sharding="zero2", adapter_dtype="bf16")
FSDP = Recipe(sharding="fsdp")

VALUES: dict[str, tuple[Any, ...]] = {
    "method": get_args(words.Method),
    "quantization": get_args(words.Quantization),
    "double_quantization": (False, True),
    "compute_dtype": get_args(words.Dtype),
    "adapter_dtype": get_args(words.Dtype),
    "rank": (1, 8, 64),
    "alpha": (1, 16, 128),
    "rslora": (False, True),
    "dropout": (0.0, 0.05, 0.5),
    "target_modules": (("all-linear",), ("q_proj",), ("q_proj", "v_proj")),
    "high_precision_modules": ((), ("lm_head",), ("lm_head", "q_proj")),
    "micro_batch": (1, 2, 16),
    "gradient_accumulation": (1, 2, 16),
    "seq_len": (128, 1024, 100_000),
    "packing": (False, True),
    "gradient_checkpointing": (False, True),
    "attention": get_args(words.Attention),
    "loss": get_args(words.Loss),
    "optimizer": get_args(words.Optimizer),
    "sharding": get_args(words.Sharding),
    "offload": get_args(words.Offload),
    "learning_rate": (1e-7, 1e-5, 2e-4),
    "schedule": ("linear", "cosine", "constant"),
    "warmup_ratio": (0.0, 0.03, 0.5),
    "max_grad_norm": (0.0, 0.3, 1.0),
    "epochs": (0.5, 1.0, 3.0),
    "max_steps": (0, 100),
    "seed": (0, 42, 12345),
}
BASES: dict[str, tuple[Recipe, ...]] = {
    "double_quantization": (QLORA,),
    "high_precision_modules": (QLORA,),
    "adapter_dtype": (LORA, QLORA),
    "quantization": (LORA,),
    "offload": (LORA, ZERO2, ZERO3, FSDP),
    "compute_dtype": (LORA, QLORA, FULL),
    "gradient_accumulation": (LORA, ZERO2),
    "max_grad_norm": (LORA, ZERO2),
    "micro_batch": (LORA, ZERO2),
    "packing": (LORA, LORA.replace(attention="flash_attention_2")),
}


def plan_file(recipe: Recipe = LORA, *, model: str = "Qwen/Qwen2.5-7B", path: str | None = None, data: str | None = None) -> PlanFile:
    """A plan for two GPUs where the recipe needs several, else for one."""
    made_for = MadeFor("cuda", "RTX 4090", 24 << 30, 1 if recipe.sharding == "none" else 2, 64 << 30)
    stack = {"name": "trl", "versions": {}}
    return PlanFile(model, 7_615_616_512, path, made_for, stack, recipe, DataSettings(data), {}, "0.1.0", "2026-01-01T00:00:00+00:00")


def variants(field: str) -> Iterator[tuple[Recipe, ...]]:
    """Recipes that differ in nothing but `field`, once for each base that matters to it."""
    for base in BASES.get(field, (LORA,)):
        yield tuple(base.replace(**{field: value}) for value in VALUES[field])


def every_recipe() -> list[Recipe]:
    """Every value of every field, and the combinations that trainers treat specially."""
    found = {recipe: None for field in VALUES for group in variants(field) for recipe in group}
    for base in (LORA, QLORA, FULL):
        for sharding in get_args(words.Sharding):
            for offload in ("none", "optimizer", "all"):
                found[base.replace(sharding=sharding, offload=offload)] = None
    for method in get_args(words.Method):
        for quantization in get_args(words.Quantization):
            if method != "full":
                found[LORA.replace(method=method, quantization=quantization)] = None
    return list(found)
