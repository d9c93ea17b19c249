"""What the driver says is in use on the visible GPU: of this process (containers often hide it) and of the whole device."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class DriverMemory:
    """Bytes. `process_bytes` is None where NVML hides processes."""

    device_used_bytes: int
    process_bytes: int | None


def read(uuid: str) -> DriverMemory:
    """The memory in use now on the GPU with this UUID.

    Raises:
        pynvml.NVMLError: there is no driver, or no such GPU.
    """
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid.encode())
    mine = [p.usedGpuMemory for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle) if p.pid == os.getpid()]
    used = int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
    return DriverMemory(used, int(mine[0]) if mine and mine[0] is not None else None)


def used_by_uuid() -> dict[str, int]:
    """Bytes in use now on every GPU: before CUDA starts it cannot be known which of them torch will take."""
    import pynvml

    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    return {str(pynvml.nvmlDeviceGetUUID(handle)): int(pynvml.nvmlDeviceGetMemoryInfo(handle).used) for handle in handles}


def driver_version() -> str:
    """The driver's version, empty where there is none."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return ""


def torch_uuid() -> str:
    """NVML's name of the GPU that torch uses."""
    import torch

    return f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
