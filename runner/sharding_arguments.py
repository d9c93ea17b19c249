"""The recipe's sharding and offload as arguments of SFTConfig and of `from_pretrained`; settings as `estimator` prices them."""

from __future__ import annotations

from typing import Any

from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.sharding_settings import deepspeed_settings, fsdp_settings
from ftadvise.runner.ranks import TIMEOUT_S, local_rank


def sharding_arguments(recipe: Recipe, device: str) -> dict[str, Any]:
    """Arguments of SFTConfig; none for one process alone.

    Args:
        device: "cpu" or "cuda".
    """
    if recipe.sharding == "none":
        return {}
    common = {"ddp_timeout": TIMEOUT_S}
    if recipe.sharding == "ddp":
        return {**common, "ddp_find_unused_parameters": False}  # every trained parameter has a gradient in every step
    if recipe.sharding == "fsdp":
        settings = fsdp_settings(recipe)
        settings["cpu_offload"] = settings.pop("offload_params")  # transformers' word for it
        # on the CPU, where `ranks.join` has made it possible
        prepared = {"accelerator_config": {"use_configured_state": True}} if device == "cpu" else {}
        return {**common, "fsdp": True, "fsdp_config": settings, **prepared}
    return {**common, "deepspeed": deepspeed_document(recipe)}


def deepspeed_document(recipe: Recipe) -> dict[str, Any]:
    """DeepSpeed's configuration for the recipe's ZeRO stage, without its own log lines."""
    settings = deepspeed_settings(recipe, stage=int(recipe.sharding[-1]), offload=recipe.offload)
    return {**settings, "steps_per_print": 1_000_000_000}


_ANNOUNCED: list[Any] = []


def announce_zero3(recipe: Recipe) -> None:
    """Let `from_pretrained` know that ZeRO-3 follows, so that each process keeps only its part of every weight it reads."""
    if recipe.sharding != "zero3":
        return
    from transformers.integrations import HfDeepSpeedConfig

    _ANNOUNCED[:] = [HfDeepSpeedConfig(deepspeed_document(recipe))]  # transformers holds it weakly, until SFTConfig makes its own


def device_map(recipe: Recipe, device: str) -> dict[str, Any] | None:
    """Where `from_pretrained` puts the model: whole on this process's GPU, or None where it is sharded from host memory.

    On the CPU a map is only needed where bitsandbytes would otherwise look for a GPU. A 4-bit model is quantised on the GPU before FSDP
    shards it.
    """
    if device == "cpu":
        return {"": "cpu"} if recipe.quantization != "none" else None
    whole = recipe.sharding not in ("zero3", "fsdp") or (recipe.sharding == "fsdp" and recipe.quantization != "none")
    return {"": local_rank()} if whole else None


def quant_storage(recipe: Recipe) -> str | None:
    """The recipe's dtype name in which 4-bit weights are stored where parameters are sharded: FSDP and ZeRO-3 shard floating point only,
    and cast what they gather to the compute dtype, which would destroy the bits of any other one. None: bytes, as elsewhere.
    """
    return recipe.compute_dtype if recipe.sharding in ("zero3", "fsdp") and recipe.quantization in ("nf4", "fp4") else None
