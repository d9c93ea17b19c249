"""The GPU cards of `profiles/gpus/*.yaml`: 171 boards, each with the source of its figures.

`profiles/gpus/_sources.yaml` says what each key means, in which unit, and what each source is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from ftadvise.profiles.hardware import GIB, Gpu
from ftadvise.profiles.yaml_store import load_yaml_folder

GPU_FOLDER = Path(__file__).parent / "gpus"
MIB = 1 << 20

Form = Literal["datacenter", "workstation", "consumer", "laptop", "embedded", "soc"]


@dataclass(frozen=True, slots=True)
class GpuPrices:
    """On-demand list prices in US dollars per GPU and hour: medians by class of provider, their numbers of points, and the points."""

    median_all: float
    n_all: int
    points: tuple[str, ...]
    median_hyperscaler: float | None = None
    n_hyperscaler: int = 0
    median_gpu_cloud: float | None = None
    n_gpu_cloud: int = 0
    median_marketplace: float | None = None
    n_marketplace: int = 0


@dataclass(frozen=True, slots=True)
class GpuCard:
    """One board as its YAML entry states it. The units are in the names; None = not known or not supported."""

    name: str
    vendor: str
    form: Form
    arch: str
    sources: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    family: str | None = None
    form_factor: str | None = None
    nvml_names: tuple[str, ...] = ()
    nvml_names_verified: tuple[str, ...] = ()
    compute_capability: str | None = None
    memory_gib: float | None = None
    memory_options_gib: tuple[int, ...] = ()
    smi_memory_mib: int | None = None
    visible_memory_gib: float | None = None
    visible_memory_source: str | None = None
    inline_ecc: bool = False
    devices_per_board: int = 1
    bandwidth_gb_per_s: float | None = None
    fp32_tflops: float | None = None
    fp16_tflops: float | None = None
    fp16_fp16acc_tflops: float | None = None
    bf16_tflops: float | None = None
    tf32_tflops: float | None = None
    int8_tops: float | None = None
    tensor_basis: str | None = None
    tdp_w: float | None = None
    nvlink_gb_per_s: float | None = None
    pcie_gen: int | None = None
    pcie_lanes: int | None = None
    sm_count: int | None = None
    l2_cache_mib: float | None = None
    boost_clock_mhz: float | None = None
    supports_bf16: bool | None = None
    supports_flash_attention_2: bool | None = None
    supports_bitsandbytes: bool | None = None
    bitsandbytes_int8_recommended: bool | None = None
    release_date: str | None = None
    price_usd_per_gpu_hour: GpuPrices | None = None
    conflicting_values: str | None = None
    note: str | None = None
    unconfirmed: tuple[str, ...] = ()

    @property
    def memory_bytes(self) -> int | None:
        """Memory of one device in bytes: the total NVML reports where that is known, else the nominal size. None when neither is."""
        if self.smi_memory_mib is not None:
            return self.smi_memory_mib * MIB // self.devices_per_board
        if self.memory_gib is not None:
            return int(self.memory_gib * GIB) // self.devices_per_board
        return None

    @property
    def pcie_bytes_per_s(self) -> float | None:
        """One direction of the board's PCIe link, after line coding: 0.985 GB/s a lane in generation 3, doubling with each. PCI-SIG."""
        if self.pcie_gen is None or self.pcie_lanes is None or self.pcie_gen < 3:
            return None
        lane: float = 8e9 * 128 / 130 / 8 * (1 << (self.pcie_gen - 3))
        return self.pcie_lanes * lane

    @property
    def visible_bytes(self) -> int | None:
        """What CUDA shows of one device in bytes: as reported, else by `gpus/_visible_memory.yaml`; None when neither is known."""
        if self.visible_memory_gib is not None:
            return int(self.visible_memory_gib * GIB) // self.devices_per_board
        if self.vendor != "NVIDIA" or self.form in ("embedded", "soc") or self.memory_gib is None:
            return None
        rule = load_yaml_folder(GPU_FOLDER)["_visible_memory.yaml"]
        usable = self.memory_gib * GIB * (1 - rule["inline_ecc_share"] * self.inline_ecc)
        kept: float = usable * rule["kept_share"] + rule["kept_mib"] * MIB
        return int(usable - kept)


# Card key -> Gpu field, for `unconfirmed`. Keys that Gpu does not carry (boost_clock_mhz, nvml_names, ...) have no entry.
_GPU_FIELDS = {
    "memory_gib": "memory_bytes",
    "compute_capability": "compute_capability",
    "bandwidth_gb_per_s": "bandwidth_bytes_per_s",
    "fp32_tflops": "fp32_flops_per_s",
    "tf32_tflops": "tf32_flops_per_s",
    "fp16_tflops": "fp16_flops_per_s",
    "bf16_tflops": "bf16_flops_per_s",
    "int8_tops": "int8_ops_per_s",
    "supports_bf16": "supports_bf16",
    "supports_flash_attention_2": "supports_flash_attention_2",
    "supports_bitsandbytes": "supports_bitsandbytes",
    "sm_count": "processors",
    "l2_cache_mib": "cache_bytes",
    "tdp_w": "tdp_w",
    "nvlink_gb_per_s": "nvlink_bytes_per_s",
    "price_usd_per_gpu_hour": "price_usd_per_hour",
}


@lru_cache(maxsize=1)
def all_gpu_cards() -> tuple[GpuCard, ...]:
    """Every card, in file and entry order. Built without validation: the tests validate every entry (`profiles.gpu_schema`)."""
    files = load_yaml_folder(GPU_FOLDER)
    return tuple(_card(entry) for name, entries in files.items() if not name.startswith("_") for entry in entries)


def card_to_gpu(card: GpuCard, *, memory_bytes: int | None = None) -> Gpu:
    """One device of the board as a `Gpu`: GB/s -> bytes/s, TFLOPS -> FLOP/s.

    A board that software sees as several devices (MI250: two of 64 GB) gives each an even share of its figures.
    The price is `median_all`, the median over every point: it takes no side between hyperscalers and marketplaces, whose prices differ
    two- to fivefold, and it is the one median that leaves out an outdated snapshot where newer points exist.

    Args:
        memory_bytes: the memory when the card does not fix it (unified memory comes in sizes); None = the card's.

    Raises:
        ValueError: neither the card nor the caller knows the memory.
    """
    memory = card.memory_bytes if memory_bytes is None else memory_bytes
    if memory is None:
        raise ValueError(f"the memory of {card.name} is not known")
    prices = card.price_usd_per_gpu_hour

    def share(value: float | None, unit: float) -> float | None:
        return None if value is None else value * unit / card.devices_per_board

    capability = None if card.compute_capability is None else tuple(int(part) for part in card.compute_capability.split("."))
    named_memory = {"memory_gib"} if memory_bytes is not None else set()
    absent = {"supports_bf16"} if card.supports_bf16 is None else set()
    doubtful = (set(card.unconfirmed) | absent) - named_memory
    return Gpu(
        name=card.name,
        vendor=card.vendor,
        arch=card.arch,
        memory_bytes=memory,
        visible_bytes=card.visible_bytes if memory_bytes is None else None,
        compute_capability=None if capability is None else (capability[0], capability[1]),
        bandwidth_bytes_per_s=share(card.bandwidth_gb_per_s, 1e9),
        fp32_flops_per_s=share(card.fp32_tflops, 1e12),
        tf32_flops_per_s=share(card.tf32_tflops, 1e12),
        fp16_flops_per_s=share(card.fp16_tflops, 1e12),
        bf16_flops_per_s=share(card.bf16_tflops, 1e12),
        int8_ops_per_s=share(card.int8_tops, 1e12),
        supports_bf16=bool(card.supports_bf16),
        supports_flash_attention_2=card.supports_flash_attention_2,
        supports_bitsandbytes=bool(card.supports_bitsandbytes),
        processors=None if card.sm_count is None else card.sm_count // card.devices_per_board,
        cache_bytes=None if card.l2_cache_mib is None else int(card.l2_cache_mib * MIB) // card.devices_per_board,
        tdp_w=share(card.tdp_w, 1),
        nvlink_bytes_per_s=share(card.nvlink_gb_per_s, 1e9),
        pcie_bytes_per_s=card.pcie_bytes_per_s,
        form=card.form,
        price_usd_per_hour=share(prices.median_all, 1) if prices else None,
        unconfirmed=tuple(field for key, field in _GPU_FIELDS.items() if key in doubtful),
        sources=card.sources if card.tensor_basis is None else (*card.sources, f"matrix rates: {card.tensor_basis}"),
    )


def _card(entry: dict[str, object]) -> GpuCard:
    """A card from its YAML mapping: lists become tuples, the price mapping `GpuPrices`."""
    fields: dict[str, object] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    prices = entry.get("price_usd_per_gpu_hour")
    if isinstance(prices, dict):
        fields["price_usd_per_gpu_hour"] = GpuPrices(**{**prices, "points": tuple(prices["points"])})
    return GpuCard(**fields)  # type: ignore[arg-type]
