"""From allocated tensors to what the device shows: the allocator's reserve, the context, the interval and the verdict. Bytes.

CUDA: the caching allocator keeps freed blocks, so it reserves more than the tensors need; how much more grows with the *dynamic* bytes
(activations, loss, workspace), because static tensors are allocated once and never move. The context is not the allocator's at all.
CPU: there is no reserve; the process holds the libraries and what the C library's heap keeps besides the tensors.
The constants and their sources are in allocator.yaml.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ftadvise.estimator.estimate_types import Components, Verdict
from ftadvise.estimator.speed.calibrated import context_bytes_for
from ftadvise.profiles.hardware import Gpu, Hardware
from ftadvise.profiles.yaml_store import load_yaml

_CUDA_ROUNDING = 2 << 20
ReserveKind = Literal["logits", "chunks", "kept", "sharded"]
"""What comes and goes in large blocks: all logits at once, only chunks of them, nothing (no checkpointing), or gathered layers."""


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


def device_memory(
    hardware: Hardware,
    peak: Components,
    *,
    dynamic_bytes: int,
    kind: ReserveKind,
    unexplained_share: float,
    communicator_bytes: int = 0,
    reserved_bytes: int | None = None,
) -> DeviceMemory:
    """What the device will show when `peak` is the largest allocation.

    The interval's ends are the 5 % and 95 % quantiles of published runs; independent uncertainties (the reserve, the context, the layers
    that nobody described) are added in quadrature.

    Args:
        dynamic_bytes: the largest activations and loss of any phase, which the allocator has cached once.
        unexplained_share: of the weights; widens the interval.
        communicator_bytes: what NCCL holds outside torch's allocator.
        reserved_bytes: what the simulated allocator reserved; by default a share of what comes and goes.
    """
    gpu = hardware.gpu
    if gpu is None:
        return _cpu_memory(hardware, peak, unexplained_share)
    allocated, constants = peak.allocated_bytes, _constants()
    reserve = constants["simulated_reserve" if reserved_bytes is not None else "reserve"]
    reserve = reserve if reserved_bytes is not None else reserve[kind]
    context = _context(hardware)
    reserved = reserved_bytes if reserved_bytes is not None else _round_up(allocated + int(reserve["share_of_dynamic"] * dynamic_bytes))
    outside = context["bytes"] + communicator_bytes
    used, unexplained = reserved + outside, unexplained_share * peak.weights
    below, above = (abs(reserve[end] - reserve["share_of_dynamic"]) * dynamic_bytes for end in ("low_share", "high_share"))
    low = max(allocated, used - math.hypot(below, context["bytes"] - context["low_bytes"], unexplained))
    high = used + math.hypot(above, context["high_bytes"] - context["bytes"], unexplained)
    # the allocator gives its cache back before it fails, so a run fits when the tensors, a little slack and the context do
    must_have = allocated + constants["least_slack"]["share_of_dynamic"] * dynamic_bytes + unexplained + outside
    available = available_bytes(gpu)
    verdict: Verdict = "fits" if high <= available else "tight" if must_have <= available else "does_not_fit"
    if verdict == "tight":
        used = min(used, max(available, int(must_have)))
        reserved = used - outside
    return DeviceMemory(reserved, outside, used, int(min(low, used)), int(high), available, verdict)


def _context(hardware: Hardware) -> dict[str, int]:
    """Bytes of the CUDA context with their interval: as measured on this GPU, else what is usual."""
    measured = context_bytes_for(hardware)
    usual: dict[str, int] = _constants()["cuda_context"]
    return usual if measured is None else {"bytes": measured, "low_bytes": measured, "high_bytes": measured}


def _cpu_memory(hardware: Hardware, peak: Components, unexplained_share: float) -> DeviceMemory:
    constants, allocated = _constants(), peak.allocated_bytes
    process, heap = constants["cpu_process"], constants["cpu_heap"]
    error = constants["cpu_error"]["share_of_dynamic"] * (peak.activations + peak.loss + peak.workspace) + unexplained_share * peak.weights
    outside = process["bytes"] + int(heap["share_of_activations"] * peak.activations)
    used = allocated + outside
    low = allocated - error + process["low_bytes"] + heap["low_share"] * peak.activations
    high = allocated + error + process["high_bytes"] + heap["high_share"] * peak.activations
    available = hardware.ram_available_bytes
    return DeviceMemory(allocated, outside, used, int(low), int(high), available, _verdict(used, high, available))


def context_bytes() -> int:
    """What a process holds on a CUDA device before its first tensor."""
    size: int = _constants()["cuda_context"]["bytes"]
    return size


def communicator_bytes(gpus: int) -> int:
    """What an NCCL communicator over so many GPUs of one machine takes on each; reported for A100s with NVLink."""
    if gpus < 2:
        return 0
    size: int = _constants()["nccl"]["bytes_2_gpus" if gpus == 2 else "bytes_more_gpus"]
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
    """What a training process can take: the free memory of a probed GPU, else what CUDA shows of the card without what the system keeps."""
    if gpu.free_bytes is not None:
        return gpu.free_bytes
    keeps = _constants()["system_keeps"]
    kept: int = keeps["screen_bytes"] if gpu.form in keeps["screen_forms"] else keeps["bytes"]
    return (gpu.visible_bytes or gpu.memory_bytes) - kept


def _verdict(used: float, high: float, available: int) -> Verdict:
    return "fits" if high <= available else "tight" if used <= available else "does_not_fit"


def _round_up(size_bytes: int) -> int:
    return -(-size_bytes // _CUDA_ROUNDING) * _CUDA_ROUNDING
