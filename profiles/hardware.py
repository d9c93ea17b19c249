"""Hardware: one machine, probed or named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that holds memory on a GPU. `memory_bytes` is None when the driver does not say (containers)."""

    pid: int
    name: str | None
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. Rates are dense (no sparsity) with fp32 accumulation, in FLOP per second; None = not known or not supported.

    `memory_bytes` is the nominal size or NVML's total; `visible_bytes`, known for most named GPUs, is what CUDA shows of it, without what
    ECC, firmware and driver keep. `free_bytes` is None for a named GPU; then all that is visible counts as free. `processors` counts
    streaming multiprocessors; `cache_bytes` is the last cache before the memory. `nvlink_bytes_per_s` is both directions together and
    `pcie_bytes_per_s` one, as the data sheets have it.
    """

    name: str
    vendor: str
    arch: str
    memory_bytes: int
    free_bytes: int | None = None
    visible_bytes: int | None = None
    compute_capability: tuple[int, int] | None = None
    bandwidth_bytes_per_s: float | None = None
    fp32_flops_per_s: float | None = None
    tf32_flops_per_s: float | None = None
    fp16_flops_per_s: float | None = None
    bf16_flops_per_s: float | None = None
    int8_ops_per_s: float | None = None
    supports_bf16: bool = False
    supports_flash_attention_2: bool | None = None
    supports_bitsandbytes: bool = True
    processors: int | None = None
    cache_bytes: int | None = None
    tdp_w: float | None = None
    nvlink_bytes_per_s: float | None = None
    pcie_bytes_per_s: float | None = None
    form: str = "unknown"
    price_usd_per_hour: float | None = None
    index: int | None = None
    uuid: str | None = None
    mig: bool = False
    processes: tuple[GpuProcess, ...] = ()
    unconfirmed: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processor: what decides whether bf16 training on it is native or emulated."""

    name: str
    physical_cores: int
    logical_cores: int
    supports_bf16: bool
    supports_amx: bool
    supports_avx512: bool = False


@dataclass(frozen=True, slots=True)
class Hardware:
    """One machine. `gpus` may be empty: training then runs on the CPU, if at all.

    `notes` holds what the probe found out in words (no driver, a GPU that failed), one sentence each. `cpu_processes` is more than one
    where a run on the CPU stands in for one on several GPUs.
    """

    gpus: tuple[Gpu, ...]
    cpu: Cpu
    ram_bytes: int
    ram_available_bytes: int
    source: Literal["probed", "named"]
    driver_version: str | None = None
    cuda_version: str | None = None
    notes: tuple[str, ...] = ()
    cpu_processes: int = 1

    @property
    def devices(self) -> int:
        """How many GPUs, or processes on the CPU, can share a sharded recipe."""
        return len(self.gpus) or self.cpu_processes

    @property
    def gpu(self) -> Gpu | None:
        """The first GPU, which a single-GPU recipe uses, or None."""
        return self.gpus[0] if self.gpus else None
