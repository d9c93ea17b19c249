"""A small model of memory and speed, so that the advisor is tested without the estimator: monotone in every size, roughly right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from ftadvise.advisor.facts import Facts
from ftadvise.estimator.estimate_types import Components, Estimate, MemoryEstimate, Stack, ThroughputEstimate, Verdict
from ftadvise.estimator.recipe import DTYPE_BYTES, Recipe
from ftadvise.profiles.hardware import GIB, Cpu, Gpu, Hardware
from ftadvise.profiles.model_spec import ModelSpec

CPU = Cpu("Test CPU", 8, 16, supports_bf16=False, supports_amx=False)


def a_model(billion: float, **changes: Any) -> ModelSpec:
    """A dense decoder with so many parameters."""
    parameters = int(billion * 1e9)
    hidden = max(256, int((parameters / 400) ** 0.5) // 128 * 128)
    spec = ModelSpec(
        id=f"test/Model-{billion:g}B", family="llama", kind="causal_lm", model_type="llama", architecture="LlamaForCausalLM",
        num_layers=32, hidden_size=hidden, intermediate_size=3 * hidden, num_attention_heads=hidden // 64, num_kv_heads=hidden // 64,
        head_dim=64, vocab_size=32000, tie_word_embeddings=False, mlp="gated", norm="rmsnorm", qkv_bias=False, o_bias=False, mlp_bias=False,
        position="rope", max_position=32768, total_params=parameters, active_params=parameters,
    )  # fmt: skip
    return dataclasses.replace(spec, **changes)


def a_gpu(memory_gib: float, name: str = "Test GPU", **changes: Any) -> Gpu:
    """A GPU of some size that has bf16."""
    gpu = Gpu(
        name, "NVIDIA", "Ampere", int(memory_gib * GIB), compute_capability=(8, 6), bf16_flops_per_s=70e12, fp16_flops_per_s=70e12,
        supports_bf16=True, form="consumer",
    )  # fmt: skip
    return dataclasses.replace(gpu, **changes)


def a_machine(*gpus: Gpu, ram_gib: float = 16, cpu: Cpu = CPU) -> Hardware:
    """A machine with these GPUs."""
    return Hardware(gpus, cpu, int(ram_gib * GIB), int(ram_gib * 0.9 * GIB), "named")


def pricer(model: ModelSpec, hardware: Hardware, calls: list[Recipe] | None = None) -> Callable[[Recipe], Estimate]:
    """A price function for the planner; `calls` collects the recipes it was asked about."""

    def price(recipe: Recipe) -> Estimate:
        if calls is not None:
            calls.append(recipe)
        return stand_in_estimate(model, hardware, recipe)

    return price


def stand_in_estimate(model: ModelSpec, hardware: Hardware, recipe: Recipe) -> Estimate:
    """Weights + adapters with optimizer + activations + context; 5 % of uncertainty each way."""
    size = model.total_params
    width = DTYPE_BYTES[recipe.compute_dtype]
    per_weight = {"none": width, "int8": 1.06, "nf4": 0.53 if recipe.double_quantization else 0.57, "fp4": 0.57}[recipe.quantization]
    weights = int(size * (0.94 * per_weight + 0.06 * width))
    trainable = size if recipe.method == "full" else recipe.rank * 18 * model.hidden_size * model.num_layers
    optimizer = trainable * (3 * width if recipe.method == "full" else 16)
    if recipe.optimizer.endswith("8bit"):
        optimizer //= 3
    gpus = max(1, len(hardware.gpus)) if recipe.sharding != "none" else 1
    divided = gpus if recipe.sharding in ("zero3", "fsdp") else 1
    weights, optimizer = weights // divided, optimizer // (gpus if recipe.sharding in ("zero2", "zero3", "fsdp") else 1)
    host = (weights if recipe.offload == "all" else 0) + (optimizer if recipe.offload != "none" else 0)
    weights, optimizer = (weights if recipe.offload != "all" else 0), (optimizer if recipe.offload == "none" else 0)
    tokens = recipe.micro_batch * recipe.seq_len
    per_token = model.hidden_size * width * (model.num_layers * (2 if recipe.gradient_checkpointing else 30) + 40)
    activations = tokens * per_token
    context = GIB // 2
    used = weights + optimizer + activations + context
    gpu = hardware.gpu
    available = (gpu.memory_bytes if gpu.free_bytes is None else gpu.free_bytes) if gpu else hardware.ram_available_bytes
    high = int(used * 1.05)
    verdict: Verdict = "does_not_fit" if high > available else "tight" if high > 0.95 * available else "fits"
    rate = ((gpu.bf16_flops_per_s or 0) if gpu else 2e11) / (6 * size)
    rate *= 0.5 * recipe.micro_batch / (recipe.micro_batch + 0.5) * (0.75 if recipe.gradient_checkpointing else 1)
    rate *= 1 if recipe.quantization == "none" else (0.8 if gpu else 0.1)
    rate *= 1 if divided == 1 else 0.8
    components = Components(weights=weights, optimizer_state=optimizer, activations=activations, context=context)
    memory = MemoryEstimate(
        used - context, used - context, used, int(used * 0.95), high, available, verdict, "backward", {}, components, host_bytes=host
    )
    seconds = recipe.sequences_per_step * recipe.seq_len / rate
    shares = {"matmul": 0.6, "elementwise": 0.3, "dequantization": 0.07, "launch": 0.03}
    speed = ThroughputEstimate(rate * gpus, seconds, 0.8 * rate * gpus, 1.2 * rate * gpus, "compute", shares)
    return Estimate(model, hardware, Stack("trl"), recipe, memory, speed, trainable)


def some_facts(**changes: Any) -> Facts:
    """A situation in which few rules speak: 10B on a 16 GB card, LoRA fits without much room."""
    facts = Facts(
        has_gpu=True, gpu_count=1, gpu_name="Test GPU", gpu_form="workstation", gpu_tier="middle", gpu_memory_gib=16, available_gib=16,
        supports_bf16=True, compute_capability=8.6, supports_flash_attention_2=True,
        model_parameters_billion=10, model_family="llama", vocab_size=32000, is_moe=False, experts_fused=False, training_examples=0,
        task="unspecified", team="unspecified", priority="unspecified",
        lora_fits=True, lora_int8_fits=True, qlora_fits=True, full_fits=False,
        lora_headroom=0.15, lora_int8_headroom=0.15, qlora_headroom=0.15, full_headroom=-3, qlora_saves=0.3,
    )  # fmt: skip
    return dataclasses.replace(facts, **changes)
