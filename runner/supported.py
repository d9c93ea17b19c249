"""Which recipes this runner executes. What it does not execute it refuses by name; it never ignores a field."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from ftadvise.estimator.peft_settings import check_method
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.stack import trl_loss
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.hardware import Hardware
from ftadvise.runner.supported_sharding import sharding_refusals

_BITSANDBYTES_OPTIMIZERS = ("adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit", "lion_32bit", "lion_8bit")


def check_installed() -> None:
    """Raise InputError, naming the command, when the training libraries are not installed."""
    for name in ("torch", "transformers", "peft", "trl", "accelerate", "datasets"):
        try:
            version(name)
        except PackageNotFoundError:
            raise InputError(f"training needs {name}, which is not installed", hint='pip install "ftadvise[run]"') from None


def check_supported(recipe: Recipe, hardware: Hardware) -> None:
    """Raise InputError for the first field that this runner or this machine cannot execute as it stands."""
    check_method(recipe)
    for reason, hint in _refusals(recipe, hardware):
        raise InputError(reason, hint=hint)


def _refusals(recipe: Recipe, hardware: Hardware) -> Iterator[tuple[str, str]]:
    gpu = hardware.gpu
    yield from _method_refusals(recipe, hardware)
    yield from sharding_refusals(recipe, hardware)
    if gpu is None and recipe.compute_dtype == "fp16":
        yield "compute_dtype fp16 cannot be trained on a CPU", "use fp32, or bf16 on a CPU that supports it"
    if gpu is not None and recipe.compute_dtype == "bf16" and not gpu.supports_bf16:
        yield f"compute_dtype bf16 is not supported by {gpu.name}", "use compute_dtype fp16"
    if recipe.method == "full" and recipe.compute_dtype == "fp16":
        yield "full fine-tuning in fp16 cannot scale its gradients: the weights themselves would be fp16", "use bf16 or fp32"
    if recipe.method != "full" and recipe.adapter_dtype == "fp16":
        yield "adapter_dtype fp16 loses small gradients: nothing scales them", "use adapter_dtype fp32 or bf16"
    if recipe.method != "full" and recipe.compute_dtype == "fp16" and recipe.adapter_dtype != "fp32":
        yield "compute_dtype fp16 scales gradients, which needs fp32 adapters", "use adapter_dtype fp32"
    if gpu is None and recipe.optimizer in _BITSANDBYTES_OPTIMIZERS:
        yield f"optimizer {recipe.optimizer} needs a GPU", "use optimizer adamw_torch"
    if gpu is not None and recipe.quantization != "none" and not gpu.supports_bitsandbytes:
        yield f"quantization {recipe.quantization} needs bitsandbytes, which does not support {gpu.name}", "use quantization none"
    if "lm_head" in recipe.target_modules:
        yield "an adapter on lm_head would never be trained: the fused loss reads the head's own weight", "remove lm_head"
    executed = trl_loss(version("trl"))
    if recipe.loss != executed:
        yield f"loss {recipe.loss} is not what the installed TRL {version('trl')} executes: it is {executed}", f"use loss: {executed}"


def _method_refusals(recipe: Recipe, hardware: Hardware) -> Iterator[tuple[str, str]]:
    method = recipe.method
    if method == "dora" and recipe.quantization == "int8" and hardware.gpu is None:
        # peft 0.21 dequantises the weight to take its norm; on a CPU, bitsandbytes 0.50 has no scales left for it afterwards
        yield "DoRA on an int8 base cannot be trained on a CPU: bitsandbytes loses the scales", "use method lora, or quantization nf4"
    if method == "adalora" and recipe.quantization == "int8" and recipe.compute_dtype == "fp32" and recipe.adapter_dtype != "fp32":
        yield "AdaLoRA on an int8 base in fp32 casts nothing to the adapter's dtype", "use adapter_dtype fp32"
    if method == "adalora" and recipe.sharding.startswith("zero"):
        yield f"method adalora weighs gradients after the update, when {recipe.sharding} has dropped them", "use sharding ddp"
    if method in ("prefix", "prompt") and recipe.packing:
        yield f"packing with method {method} would let packed sequences attend to each other", "use packing false"
