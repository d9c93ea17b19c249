"""From allocated tensors to what the device shows: the allocator's reserve, the context, the interval and the verdict. Bytes.

CUDA: the caching allocator keeps freed blocks, so it reserves more than the tensors need; how much more grows with the *dynamic* bytes
(activations, loss, workspace), because static tensors are allocated once and never move. The context is not the allocator's at all.
CPU: there is no reserve; the process holds the libraries and what the C library's heap keeps besides the tensors.
The constants and their sources are in allocator.yaml.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftadvise.estimator.estimate_types import Components, Verdict
from ftadvise.estimator.layout import Layout
from ftadvise.profiles.hardware import Gpu, Hardware
from ftadvise.profiles.yaml_store import load_yaml

_CUDA_ROUNDING = 2 << 20


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes that the device shows, the interval around `used_bytes`, and whether it fits."""

    reserved_bytes: int
    context_bytes: int
    used_bytes: int
    low_bytes: int
    high_bytes: int
    available_bytes: int
    verdict: Verdict
    notes: tuple[str, ...] = ()


@functools.cache
def _constants() -> dict[str, Any]:
    constants: dict[str, Any] = load_yaml(Path(__file__).parent / "allocator.yaml")
    return constants


def device_memory(layout: Layout, hardware: Hardware, peak: Components) -> DeviceMemory:
    """What the device will show when `peak` is the largest allocation."""
    gpu = hardware.gpu
    allocated = peak.allocated_bytes
    dynamic = peak.activations + peak.loss + peak.workspace
    constants = _constants()
    error = constants["derived_error"]["share_of_dynamic"] * dynamic + layout.unexplained_share * peak.weights
    if gpu is None:
        process, heap = constants["cpu_process"], constants["cpu_heap"]
        outside = process["bytes"] + int(heap["share_of_activations"] * peak.activations)
        used = allocated + outside
        low = allocated - error + process["low_bytes"] + heap["low_share"] * peak.activations
        high = allocated + error + process["high_bytes"] + heap["high_share"] * peak.activations
        available = hardware.ram_available_bytes
        return DeviceMemory(allocated, outside, used, int(low), int(high), available, _verdict(used, high, available))
    reserve, context = constants["reserve"], constants["cuda_context"]
    reserved = _round_up(allocated + int(reserve["share_of_dynamic"] * dynamic))
    low = allocated + reserve["low_share"] * dynamic - error + context["low_bytes"]
    high = allocated + reserve["high_share"] * dynamic + error + context["high_bytes"]
    # the allocator gives its cache back before it fails, so a run fits when the tensors, a little slack and the context do
    must_have = allocated + reserve["low_share"] * dynamic + error + context["high_bytes"]
    available = available_bytes(gpu)
    verdict: Verdict = "fits" if high <= available else "tight" if must_have <= available else "does_not_fit"
    if verdict == "tight":
        reserved = min(reserved, available - context["bytes"])
    return DeviceMemory(reserved, context["bytes"], reserved + context["bytes"], int(low), int(high), available, verdict)


def context_bytes() -> int:
    """What a process holds on a CUDA device before its first tensor."""
    size: int = _constants()["cuda_context"]["bytes"]
    return size


def matmul_workspace_bytes(gpu: Gpu | None) -> int:
    """What PyTorch keeps allocated for cuBLAS: one workspace for the forward thread's handle and one for the backward thread's."""
    if gpu is None or gpu.vendor != "NVIDIA":
        return 0
    workspace = _constants()["cublas_workspace"]
    recent = gpu.compute_capability is not None and gpu.compute_capability >= (9, 0)
    size: int = 2 * workspace["bytes_from_9_0" if recent else "bytes"]
    return size


def available_bytes(gpu: Gpu) -> int:
    """What a training process can take: the free memory of a probed GPU, else the card's memory without what the system keeps."""
    if gpu.free_bytes is not None:
        return gpu.free_bytes
    return gpu.memory_bytes - int(_constants()["system_keeps"]["bytes"])


def _verdict(used: float, high: float, available: int) -> Verdict:
    return "fits" if high <= available else "tight" if used <= available else "does_not_fit"


def _round_up(size_bytes: int) -> int:
    return -(-size_bytes // _CUDA_ROUNDING) * _CUDA_ROUNDING
