"""From a named or probed device to the rates it reaches: its data sheet's figures times the shares of `efficiency.yaml`.

A matrix product is bound by the tensor cores or by the power limit, whichever is lower:

    share of the peak = min(limit, per_root_watt * sqrt(watts per 10^12 FLOP/s of the 16-bit peak))

`limit` is what large products reach on boards with power to spare. Power rises with clock times voltage squared, and the voltage with the
clock, so the clock that a power limit leaves rises with about the square root of it. Two figures per architecture so cover boards from a
72 W L4 (0.48 of its peak) to a 450 W RTX 4090 (1.02; GeForce boards run above the clock their data sheets state), within 20 % of what is
published (tests/estimator/test_device_rates.py). fp32 products need less power: their share falls by the square root of that factor.

De-quantisation is bound by the memory: an element of NF4 or FP4 reads half a byte and a 64th of an absmax of four bytes, and writes two
bytes; int8 weights are expanded by a cast and a product in place, which move seven bytes for two. `dequantize` is the share of the
reached bandwidth; boards with much bandwidth per multiprocessor fall short of it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftadvise.estimator.speed.rates import Rates
from ftadvise.profiles.hardware import Cpu, Gpu, Hardware
from ftadvise.profiles.yaml_store import load_yaml

EFFICIENCY_FILE = Path(__file__).parent / "efficiency.yaml"
BLOCKS = ("matmul", "bandwidth", "dequantize", "attention", "latency", "training", "link")

_DECISIVE = {"bandwidth_bytes_per_s", "fp16_flops_per_s", "bf16_flops_per_s"}
_TERA = 1e12
_ONE_MACHINE = 8
# Bytes that move for each byte of the expanded 16-bit weight that comes out.
_MOVED = {"nf4": (0.5 + 4 / 64 + 2) / 2, "fp4": (0.5 + 4 / 64 + 2) / 2, "int8": (1 + 2 + 2 + 2) / 2}


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What one kind of device reaches: the blocks of `efficiency.yaml`, figures only, and the texts of their sources."""

    blocks: Mapping[str, Mapping[str, float]]
    interval: tuple[float, float]
    sources: tuple[str, ...]


@functools.lru_cache(maxsize=256)  # a search asks for one machine thousands of times
def rates_of(hardware: Hardware) -> Rates | None:
    """What the machine's first GPU reaches, or its CPU when it has none. None when a GPU's bandwidth or every matrix rate is unknown.

    The link is that of the GPUs among each other, as soon as there are two.
    """
    gpu = hardware.gpu
    return _cpu_rates(hardware.cpu) if gpu is None else _gpu_rates(gpu, devices=len(hardware.gpus))


def efficiency_of(gpu: Gpu) -> Efficiency:
    """The shares that hold for a GPU: those of its architecture over the default ones, and a laptop's over both."""
    table = load_efficiency()
    layers = [table["gpu"]["default"], _architecture(gpu)]
    if gpu.form == "laptop":
        layers.append(table["gpu"]["laptop"])
    blocks: dict[str, dict[str, float]] = {name: {} for name in BLOCKS}
    named: dict[str, None] = {}
    for name in BLOCKS:
        stating = [layer[name] for layer in layers if name in layer]
        for block in stating:
            blocks[name].update({key: value for key, value in block.items() if key not in ("sources", "unconfirmed")})
        named.update(dict.fromkeys(stating[-1]["sources"]))
    low, high = next(layer["interval"] for layer in reversed(layers) if "interval" in layer)
    widening = table["gpu"]["widened_by"] if _DECISIVE & set(gpu.unconfirmed) else 1.0
    return Efficiency(blocks=blocks, interval=(low / widening, high * widening), sources=tuple(table["sources"][key] for key in named))


@functools.cache
def load_efficiency() -> dict[str, Any]:
    """The content of `efficiency.yaml`."""
    table: dict[str, Any] = load_yaml(EFFICIENCY_FILE)
    return table


def _architecture(gpu: Gpu) -> dict[str, Any]:
    """The entry of `efficiency.yaml` for a GPU: by compute capability where there is one, else by name; empty when there is none."""
    entries: dict[str, dict[str, Any]] = load_efficiency()["gpu"]["architectures"]
    if gpu.compute_capability is not None:
        capability = "{}.{}".format(*gpu.compute_capability)
        return next((entry for entry in entries.values() if capability in entry.get("compute_capabilities", ())), {})
    return entries.get(gpu.arch, {})


def _gpu_rates(gpu: Gpu, *, devices: int) -> Rates | None:
    efficiency = efficiency_of(gpu)
    matmul = _matmul_rates(gpu, efficiency.blocks["matmul"])
    if not matmul or gpu.bandwidth_bytes_per_s is None:
        return None
    bandwidth = gpu.bandwidth_bytes_per_s * efficiency.blocks["bandwidth"]["share"]
    latency = efficiency.blocks["latency"]
    return Rates(
        matmul_flops_per_s=matmul,
        bandwidth_bytes_per_s=bandwidth,
        dequantize_bytes_per_s={name: bandwidth * share / _MOVED[name] for name, share in efficiency.blocks["dequantize"].items()},
        attention_share=efficiency.blocks["attention"],
        kernel_s=latency["kernel_s"],
        host_s={"forward": latency["host_forward_s"], "backward": latency["host_backward_s"]},
        sustained=efficiency.blocks["training"]["sustained"],
        host_spread=latency["host_spread"],
        processors=gpu.processors or 0,
        cache_bytes=gpu.cache_bytes or 0,
        cache_bytes_per_s=bandwidth * efficiency.blocks["bandwidth"]["cache"],
        link_bytes_per_s=_link_rate(gpu, devices, efficiency.blocks["link"]),
        overlap=efficiency.blocks["link"]["overlap"],
        interval=efficiency.interval,
        sources=(*gpu.sources, *efficiency.sources),
    )


def _matmul_rates(gpu: Gpu, shares: Mapping[str, float]) -> dict[str, float]:
    """FLOP/s of large products by dtype. A 16-bit type without a rate of its own is missing; fp16 on old boards runs as fp32 does."""
    limit = shares["limit"]
    reached = min(limit, shares.get("per_root_watt", math.inf) * _root_watt(gpu))
    rates = {
        "fp16": _times(gpu.fp16_flops_per_s, reached),
        "bf16": _times(gpu.bf16_flops_per_s, reached),
        "tf32": _times(gpu.tf32_flops_per_s, reached),
        "fp32": _times(gpu.fp32_flops_per_s, shares["fp32"] * math.sqrt(reached / limit)),
    }
    if gpu.fp16_flops_per_s is None and "fp16_of_fp32" in shares:
        rates["fp16"] = _times(rates["fp32"], shares["fp16_of_fp32"])
    return {dtype: rate for dtype, rate in rates.items() if rate is not None}


def _root_watt(gpu: Gpu) -> float:
    """Square root of the watts for each 10^12 FLOP/s of the 16-bit peak; infinite when one of them is not known."""
    peak = gpu.bf16_flops_per_s or gpu.fp16_flops_per_s
    return math.sqrt(gpu.tdp_w / (peak / _TERA)) if gpu.tdp_w and peak else math.inf


def _times(rate: float | None, share: float) -> float | None:
    return None if rate is None else rate * share


def _link_rate(gpu: Gpu, devices: int, shares: Mapping[str, float]) -> float | None:
    """Bytes per second that one GPU sends to its neighbours; data sheets state both directions of NVLink together.

    More than eight GPUs are taken for several machines, whose network is slower.
    """
    if devices < 2:
        return None
    rate = _times(gpu.pcie_bytes_per_s, shares["pcie"]) if gpu.nvlink_bytes_per_s is None else gpu.nvlink_bytes_per_s / 2 * shares["nvlink"]
    return min(rate or math.inf, shares["network"]) if devices > _ONE_MACHINE else rate


def _cpu_rates(cpu: Cpu) -> Rates:
    """The coarse figures of one machine scaled by cores and instruction set."""
    figures = load_efficiency()["cpu"]
    fp32 = figures["fp32_flops_per_core_per_s"]["avx512" if cpu.supports_avx512 else "avx2"] * max(1, cpu.physical_cores)
    native = cpu.supports_bf16 or cpu.supports_amx
    low, high = figures["interval"]
    return Rates(
        matmul_flops_per_s={
            "fp32": fp32,
            "bf16": fp32 * figures["native_bf16" if native else "emulated_16_bit"],
            "fp16": fp32 * figures["emulated_16_bit"],
        },
        bandwidth_bytes_per_s=figures["bandwidth_bytes_per_s"],
        dequantize_bytes_per_s=figures["dequantize_bytes_per_s"],
        attention_share=figures["attention"],
        kernel_s=figures["kernel_s"],
        host_s={"forward": figures["host_forward_s"], "backward": figures["host_backward_s"]},
        interval=(low, high),
        sources=(figures["source"],),
    )
