"""How long the host needs for one operation of a real model: transformers' modules, PEFT's around them, the autograd engine.

A Llama of four layers so narrow that its arithmetic takes no time, with LoRA adapters, is run forward and backward. Divided by the
operations that the step-time model counts for the very same recipe, this is what it has to multiply them with.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

from ftadvise.estimator.activations import Batch
from ftadvise.estimator.recipe import Dtype, Recipe
from ftadvise.estimator.recorded_step import recorded_step
from ftadvise.estimator.speed.optimizer_time import optimizer_seconds
from ftadvise.estimator.speed.rates import Rates
from ftadvise.estimator.speed.step_time import step_time
from ftadvise.estimator.stack import stack_of
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.model_config import spec_from_config
from ftadvise.runner.bench_device import BenchDevice, median_seconds

_TOKENS = 8
_NARROW = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
    "vocab_size": 64,
}
_LEAST_S = 1e-7


def host_seconds(device: BenchDevice, hardware: Hardware, dtype: Dtype, kernel_s: float) -> dict[str, float]:
    """Seconds for each operation, "forward" and "backward". On a CPU `kernel_s` is taken off: there the two add up."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from ftadvise.runner.adapters import wrap_with_adapter
    from ftadvise.runner.load_model import torch_dtype
    from ftadvise.runner.quiet import quiet_libraries

    recipe = Recipe(
        compute_dtype=dtype,
        rank=8,
        alpha=16,
        dropout=0.0,
        micro_batch=1,
        gradient_accumulation=1,
        seq_len=_TOKENS,
        gradient_checkpointing=False,
        loss="full",
    )
    config = LlamaConfig(**_NARROW, tie_word_embeddings=True)
    with quiet_libraries():
        model = wrap_with_adapter(LlamaForCausalLM(config).to(torch_dtype(dtype)).to(device.name), recipe, "narrow").train()
    ids = torch.zeros(1, _TOKENS, dtype=torch.long, device=device.name)
    cast = contextlib.nullcontext() if dtype == "fp32" else torch.autocast(device.name, torch_dtype(dtype))

    def forward() -> Any:
        with cast:
            return model(input_ids=ids, labels=ids).loss

    def both() -> None:
        forward().backward()

    forward_s = median_seconds(forward, device)
    backward_s = max(0.0, median_seconds(both, device) - forward_s)
    tensors = sum(parameter.requires_grad for parameter in model.parameters())
    counted = _operations(config.to_dict(), hardware, recipe, tensors)
    own = kernel_s if device.name == "cpu" else 0.0
    return {name: max(_LEAST_S, seconds / counted[name] - own) for name, seconds in (("forward", forward_s), ("backward", backward_s))}


def _operations(config: dict[str, Any], hardware: Hardware, recipe: Recipe, tensors: int) -> dict[str, float]:
    """Operations that the step-time model counts: its host time where everything but one second for each costs nothing."""
    spec = spec_from_config(config, source="narrow")
    step = recorded_step(spec, hardware, recipe, stack_of("transformers"), Batch(1, recipe.seq_len, masked=False))
    counted = {}
    for name in ("forward", "backward"):
        rates = Rates(
            matmul_flops_per_s=dict.fromkeys(("fp32", "fp16", "bf16"), math.inf),
            bandwidth_bytes_per_s=math.inf,
            dequantize_bytes_per_s={},
            attention_share={"forward": 1.0, "backward": 1.0},
            kernel_s=0.0,
            host_s={"forward": 0.0, "backward": 0.0, name: 1.0},
        )
        time = step_time(step, recipe, rates, gpus=1, on_gpu=hardware.gpu is not None, layers=spec.num_layers, parameters=0)
        if time is None:
            raise InputError(f"{recipe.compute_dtype} cannot be timed on this device")
        counted[name] = time.host_seconds - optimizer_seconds(recipe, {}, tensors, rates)[1]
    return counted
