"""Time of a training step from first principles, coarse in this version: floating-point work, bytes moved, launches. Seconds.

Work per token, in FLOP, for P weights in linear layers of the decoder and a head of V x h:

    forward               2 P + 2 S q (attention scores and values, causal, q = query width)
    checkpointing         the forward once more
    backward, frozen      2 P + 4 S q (gradients of activations only; a frozen weight needs none)
    backward, trained     4 P + 4 S q
    head                  2 V h forward, 4 V h backward (recomputed, then the gradient of the hidden state)

NF4 and int8 weights are expanded once per layer and pass, whatever the number of tokens: 2.5 bytes moved per element and pass.
Ignored: norms and element-wise work (bandwidth-bound, 5-15 % of a step), data loading, the adapters' own products (below 2 %).
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

from ftadvise.estimator.estimate_types import ThroughputEstimate
from ftadvise.estimator.layout import Layout, layout_of
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.hardware import Gpu, Hardware
from ftadvise.profiles.model_spec import ModelSpec
from ftadvise.profiles.yaml_store import load_yaml


@functools.cache
def _constants() -> dict[str, Any]:
    constants: dict[str, Any] = load_yaml(Path(__file__).parent / "efficiency.yaml")
    return constants


def estimate_throughput(model: ModelSpec, hardware: Hardware, recipe: Recipe) -> ThroughputEstimate | None:
    """Tokens per second (padded) and seconds per optimizer step, or None when the GPU's rates are not known."""
    layout = layout_of(model)
    tokens = recipe.micro_batch * recipe.seq_len
    work = tokens * flops_per_token(layout, recipe)
    passes = 3 if recipe.gradient_checkpointing else 2
    gpu = hardware.gpu
    if gpu is None:
        seconds, shares, notes = _cpu_seconds(layout, hardware, recipe, work, passes)
        interval = _constants()["cpu"]
    else:
        rate = _matmul_rate(gpu, recipe)
        if rate is None or gpu.bandwidth_bytes_per_s is None:
            return None
        seconds, shares, notes = _gpu_seconds(layout, gpu, recipe, work, passes, rate)
        interval = _constants()["gpu"]
    bound = max(shares, key=lambda name: shares[name])
    speed = tokens / seconds
    bound_by: Literal["compute", "memory", "overhead"] = "compute" if bound == "compute" else "memory" if bound == "memory" else "overhead"
    return ThroughputEstimate(
        tokens_per_second=speed,
        seconds_per_step=seconds * recipe.gradient_accumulation,
        low=speed * interval["low"],
        high=speed * interval["high"],
        bound_by=bound_by,
        shares={name: share / seconds for name, share in shares.items()},
        notes=notes,
    )


def flops_per_token(layout: Layout, recipe: Recipe) -> float:
    """Floating-point operations of one training token; see the module's docstring."""
    experts = layout.spec.experts
    weights = layout.linear_parameters
    if experts is not None:
        weights += layout.expert_parameters * experts.experts_per_token // max(1, experts.num_experts)
    attention = recipe.seq_len * layout.query_width * layout.spec.num_layers
    forward = 2 * weights + 2 * attention
    backward = (4 if recipe.method == "full" else 2) * weights + 4 * attention
    head = layout.spec.vocab_size * layout.spec.hidden_size * (8 if recipe.method == "full" else 6)
    return float(forward * (2 if recipe.gradient_checkpointing else 1) + backward + head)


def _gpu_seconds(
    layout: Layout, gpu: Gpu, recipe: Recipe, work: float, passes: int, rate: float
) -> tuple[float, dict[str, float], tuple[str, ...]]:
    constants = _constants()["gpu"]
    bandwidth = constants["bandwidth_share_of_peak"] * (gpu.bandwidth_bytes_per_s or 0.0)
    compute = work / (rate * constants["matmul_share_of_peak"])
    weight_bytes = 2 * layout.linear_parameters if recipe.quantization == "none" else 4.5 * layout.linear_parameters
    memory = passes * weight_bytes / bandwidth
    launches = passes * layout.spec.num_layers * constants["kernels_per_layer_pass"] * constants["kernel_launch_seconds"]
    if recipe.quantization == "none":
        busy = max(compute, memory)  # weights stream while the products run
        shares = {"compute": compute, "memory": max(0.0, memory - compute), "overhead": max(0.0, launches - busy)}
    else:
        busy = compute + memory  # expanding a weight must end before its product begins
        shares = {"compute": compute, "memory": memory, "overhead": max(0.0, launches - busy)}
    return max(busy, launches), shares, ()


def _matmul_rate(gpu: Gpu, recipe: Recipe) -> float | None:
    if recipe.compute_dtype == "bf16":
        return gpu.bf16_flops_per_s
    if recipe.compute_dtype == "fp16":
        return gpu.fp16_flops_per_s or gpu.fp32_flops_per_s
    return gpu.fp32_flops_per_s


def _cpu_seconds(
    layout: Layout, hardware: Hardware, recipe: Recipe, work: float, passes: int
) -> tuple[float, dict[str, float], tuple[str, ...]]:
    constants, cpu = _constants()["cpu"], hardware.cpu
    rate = constants["fp32_flops_per_core_per_s"]["avx512" if cpu.supports_avx512 else "avx2"] * max(1, cpu.physical_cores)
    notes: list[str] = []
    if recipe.compute_dtype != "fp32" and not (cpu.supports_bf16 or cpu.supports_amx):
        rate /= constants["bf16_emulation_factor"]
        notes.append(f"{recipe.compute_dtype} is emulated on this CPU: several times slower than fp32")
    compute = work / rate
    memory = passes * 4 * layout.linear_parameters / constants["bandwidth_bytes_per_s"]
    dequantisation = 0.0
    if recipe.quantization != "none":
        dequantisation = passes * 4 * layout.linear_parameters / constants["dequantisation_bytes_per_s"]
        notes.append(f"{recipe.quantization} on a CPU is slower still: every product expands its weight first")
    seconds = max(compute, memory) + dequantisation
    shares = {"compute": compute, "memory": max(0.0, memory - compute) + dequantisation, "overhead": 0.0}
    return seconds, shares, tuple(notes)
