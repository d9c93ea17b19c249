"""The device under the micro-benchmark: every call that differs between a CPU and a CUDA GPU is here. Imports torch inside functions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

_LEAST_SAMPLE_S = 0.02
"""A sample shorter than this would measure the clock."""
_SAMPLES = 7


class BenchDevice(Protocol):
    """What the micro-benchmark asks of a device. `name` is "cpu" or "cuda"."""

    name: str

    def synchronize(self) -> None:
        """Wait until everything that was launched is done."""

    def matmul_dtypes(self) -> tuple[str, ...]:
        """Of "fp32", "tf32", "fp16" and "bf16", those to be measured."""

    def use_tf32(self, allowed: bool) -> None:
        """Whether fp32 products may run in TF32."""

    def attention_kernels(self) -> Mapping[str, AbstractContextManager[Any]]:
        """By prefix of the keys of `Rates.attention_share`, within what the kernel is chosen; "" is the usual one."""

    def kernel_seconds(self) -> float:
        """Device time of one operation on a handful of numbers, without what Python takes to ask for it."""

    def processors(self) -> int | None:
        """Streaming multiprocessors; None on a CPU."""

    def context_bytes(self) -> int | None:
        """What CUDA has taken since this object was made beside torch's allocator; None where that cannot be told."""


def bench_device(name: str, gpu_uuid: str | None = None) -> BenchDevice:
    """The device called "cpu" or "cuda" (the first visible GPU)."""
    return CudaBenchDevice(gpu_uuid) if name == "cuda" else CpuBenchDevice()


def median_seconds(work: Callable[[], Any], device: BenchDevice, *, sample_s: float = _LEAST_SAMPLE_S, samples: int = _SAMPLES) -> float:
    """Seconds of one call of `work`: warmed up, then the median of samples, each of as many calls as fill `sample_s`."""
    for _ in range(2):
        once = _seconds(work, 1, device)
    calls = max(1, round(sample_s / max(once, 1e-9)))
    return statistics.median(_seconds(work, calls, device) for _ in range(samples)) / calls


def _seconds(work: Callable[[], Any], calls: int, device: BenchDevice) -> float:
    device.synchronize()
    began = time.perf_counter()
    for _ in range(calls):
        work()
    device.synchronize()
    return time.perf_counter() - began


class CpuBenchDevice:
    """A CPU: everything runs when it is asked for."""

    name = "cpu"

    def synchronize(self) -> None:
        """Nothing runs behind our back."""

    def matmul_dtypes(self) -> tuple[str, ...]:
        """bf16 also where it is emulated: then the figure says how slow that is."""
        return ("fp32", "bf16")

    def use_tf32(self, allowed: bool) -> None:
        """CPUs have no TF32."""

    def attention_kernels(self) -> Mapping[str, AbstractContextManager[Any]]:
        """There is one."""
        return {"": nullcontext()}

    def kernel_seconds(self) -> float:
        """One tensor's share of an operation on a list of them."""
        import torch

        tensors = [torch.ones(8) for _ in range(500)]
        return median_seconds(lambda: torch._foreach_add_(tensors, 1.0), self) / len(tensors)

    def processors(self) -> int | None:
        """Products are not cut into tiles that processors take in turns."""
        return None

    def context_bytes(self) -> int | None:
        """A CPU has no context."""
        return None


class CudaBenchDevice:
    """The first visible GPU. Make it before CUDA is initialised: the context is what appears afterwards."""

    name = "cuda"

    def __init__(self, gpu_uuid: str | None) -> None:
        import torch

        self._uuid = gpu_uuid
        self._used_before = None if torch.cuda.is_initialized() else self._used_bytes()

    def synchronize(self) -> None:
        """The host runs ahead of the GPU."""
        import torch

        torch.cuda.synchronize()

    def matmul_dtypes(self) -> tuple[str, ...]:
        """What the tensor cores can do; emulated types are left out."""
        import torch

        capability = torch.cuda.get_device_capability()
        return ("fp32", "fp16", *(("tf32", "bf16") if capability >= (8, 0) else ()))

    def use_tf32(self, allowed: bool) -> None:
        """As `torch.set_float32_matmul_precision("high")` does."""
        import torch

        torch.set_float32_matmul_precision("high" if allowed else "highest")

    def attention_kernels(self) -> Mapping[str, AbstractContextManager[Any]]:
        """FlashAttention where there is one, and the memory-efficient kernel, which takes masks."""
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        kernels: dict[str, AbstractContextManager[Any]] = {"efficient_": sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION)}
        if torch.cuda.get_device_capability() >= (8, 0):
            kernels[""] = sdpa_kernel(SDPBackend.FLASH_ATTENTION)
        return kernels

    def kernel_seconds(self) -> float:
        """Of a CUDA graph, which the GPU runs through without the host."""
        import torch

        kernels = 500
        x = torch.ones(8, device="cuda")
        x.add_(1.0)  # compiled and loaded before the capture
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(kernels):
                x.add_(1.0)
        return median_seconds(graph.replay, self) / kernels

    def processors(self) -> int | None:
        """As the driver counts them."""
        import torch

        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count)

    def context_bytes(self) -> int | None:
        """Used now minus used before, minus the allocator's; another process that starts or ends meanwhile spoils it."""
        import torch

        used = self._used_bytes()
        if used is None or self._used_before is None:
            return None
        context = used - self._used_before - torch.cuda.memory_reserved()
        return context if context > 0 else None

    def _used_bytes(self) -> int | None:
        """What the whole GPU holds, or None where NVML does not say."""
        if self._uuid is None:
            return None
        import pynvml

        try:
            pynvml.nvmlInit()
            return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(self._uuid)).used)
        except pynvml.NVMLError:
            return None
