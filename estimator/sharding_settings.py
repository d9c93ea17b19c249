"""FSDP2 and DeepSpeed set up as `sharding` prices them. Exporters write these settings, the runner trains with them.

Keys of FSDP from accelerate 1.15.0 (utils/dataclasses.py FullyShardedDataParallelPlugin), of DeepSpeed from deepspeed 0.19.8
(runtime/config.py, runtime/zero/config.py, runtime/zero/offload_config.py).
"""

from __future__ import annotations

from typing import Any

from ftadvise.estimator.recipe import Offload, Recipe

_CPU_ADAM = ("adamw_torch", "adamw_torch_fused")
"""Optimizers that accelerate replaces by DeepSpeed's own for states in host memory."""


def fsdp_settings(recipe: Recipe) -> dict[str, Any]:
    """Settings of FSDP2, without a prefix. Layers are units; checkpointing stays the training's, or layers would be checkpointed twice."""
    return {
        "version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "reshard_after_forward": True,
        # each process reads and quantises the weights itself: quantising on the first process alone deadlocks (axolotl validation.py)
        "cpu_ram_efficient_loading": recipe.quantization == "none",
        "offload_params": recipe.offload != "none",  # one switch for parameters, gradients and optimizer
        "activation_checkpointing": False,
        "state_dict_type": "FULL_STATE_DICT",
    }


def deepspeed_settings(recipe: Recipe, *, stage: int, offload: Offload) -> dict[str, Any]:
    """DeepSpeed's configuration for a ZeRO stage (0 to 3).

    "auto" is filled in by transformers (integrations/deepspeed.py: bucket sizes from the hidden size, as the estimate assumes).
    """
    zero: dict[str, Any] = {"stage": stage}
    if stage:
        zero |= {"overlap_comm": True, "contiguous_gradients": True, "reduce_bucket_size": "auto"}
    if stage == 3:
        zero |= {"stage3_prefetch_bucket_size": "auto", "stage3_param_persistence_threshold": "auto"}
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    host = {"device": "cpu", "pin_memory": True}
    if offload in ("optimizer", "all"):
        zero["offload_optimizer"] = dict(host)
    if offload in ("parameters", "all"):
        zero["offload_param"] = dict(host)
    return {
        "train_micro_batch_size_per_gpu": recipe.micro_batch,
        "gradient_accumulation_steps": recipe.gradient_accumulation,
        "gradient_clipping": recipe.max_grad_norm,
        "bf16": {"enabled": recipe.compute_dtype == "bf16"},
        "fp16": {"enabled": recipe.compute_dtype == "fp16"},
        "zero_allow_untested_optimizer": True,  # the optimizer is the Trainer's
        # DeepSpeed's own Adam updates states in host memory; it has no other optimizer of the Trainer's
        **({} if recipe.optimizer in _CPU_ADAM or "offload_optimizer" not in zero else {"zero_force_ds_cpu_optimizer": False}),
        "zero_optimization": zero,
    }
