"""What NVML says about the GPUs of this machine, read through pynvml, before any profile is consulted.

Whatever fails is a fact about the machine and not an error: a missing driver ends in a reading without devices, a call that fails
leaves out its one field, a card that falls off the bus is left out; each with a note of one sentence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import pynvml

from ftadvise.profiles.hardware import GpuProcess

_T = TypeVar("_T")

# Not every card has the feature and not every driver the function: nothing to report.
_FEATURE_ABSENT = (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)

_WHY_NO_NVML = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "No NVIDIA driver was found on this machine (no NVML library), so no NVIDIA GPU can be used.",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "The NVIDIA driver is installed but not loaded, so no GPU can be used.",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "The loaded NVIDIA driver and its library are of different versions, so no GPU can be used; a reboot usually mends this."
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: "This user has no permission to talk to the NVIDIA driver, so no GPU can be used.",
}


@dataclass(frozen=True, slots=True)
class MigInstance:
    """What makes a device a MIG instance: its profile ("1g.5gb"), its multiprocessors, and the memory of the whole card."""

    profile: str | None
    multiprocessors: int | None
    card_total_bytes: int | None


@dataclass(frozen=True, slots=True)
class NvmlDevice:
    """One GPU or one MIG instance. `index` and `name` are the card's, the rest is the device's own; None = the driver does not say."""

    index: int
    name: str
    uuid: str | None
    card_uuid: str | None
    total_bytes: int | None
    free_bytes: int | None
    compute_capability: tuple[int, int] | None
    processes: tuple[GpuProcess, ...]
    mig: MigInstance | None = None


@dataclass(frozen=True, slots=True)
class NvmlReading:
    """Everything NVML said, with a note for everything it did not."""

    devices: tuple[NvmlDevice, ...] = ()
    driver_version: str | None = None
    cuda_version: str | None = None
    notes: tuple[str, ...] = ()


def read_nvml() -> NvmlReading:
    """Ask NVML about every GPU. Never raises for the state of the machine."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        note = _WHY_NO_NVML.get(
            error.value, f"NVML, the NVIDIA driver's library, does not start ({_reason(error)}), so no GPU can be used."
        )
        return NvmlReading(notes=(note,))
    try:
        return _Reader().read()
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


class _Reader:
    """One pass over all devices; collects the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def read(self) -> NvmlReading:
        driver = self._ask("The driver version", pynvml.nvmlSystemGetDriverVersion)
        cuda = self._ask("The CUDA version", pynvml.nvmlSystemGetCudaDriverVersion_v2)
        count = self._ask("The number of GPUs", pynvml.nvmlDeviceGetCount)
        if count == 0:
            self.notes.append("The NVIDIA driver runs but shows no GPU.")
        devices: list[NvmlDevice] = []
        for index in range(count or 0):
            try:
                devices.extend(self._card(index))
            except pynvml.NVMLError_GpuIsLost:
                self.notes.append(f"GPU {index} has fallen off the bus and is left out; a reboot usually brings it back.")
        return NvmlReading(
            devices=tuple(devices),
            driver_version=driver,
            # NVML states CUDA 13.2 as 13020.
            cuda_version=None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
            notes=tuple(self.notes),
        )

    def _card(self, index: int) -> list[NvmlDevice]:
        """The devices of one card: itself, or its MIG instances when it is cut into such."""
        who = f"GPU {index}"
        handle = self._ask(f"{who}, which is left out,", pynvml.nvmlDeviceGetHandleByIndex, index)
        if handle is None:
            return []
        mode = self._ask(f"The MIG mode of {who}", pynvml.nvmlDeviceGetMigMode, handle)
        in_mig_mode = mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE
        # In MIG mode the processes belong to the instances, and the card's list is for administrators only.
        card = self._device(who, handle, index, with_processes=not in_mig_mode)
        if not in_mig_mode:
            return [card]
        instances = self._mig_instances(handle, card)
        if not instances:
            self.notes.append(f"{who} is in MIG mode without instances and is left out; create some with nvidia-smi mig -cgi.")
        elif len(instances) > 1:
            self.notes.append(f"{who} is cut into {len(instances)} MIG instances, of which a CUDA process can use one.")
        return instances

    def _mig_instances(self, card_handle: Any, card: NvmlDevice) -> list[NvmlDevice]:
        instances = []
        slots = self._ask(f"The MIG instances of GPU {card.index}", pynvml.nvmlDeviceGetMaxMigDeviceCount, card_handle)
        for slot in range(slots or 0):
            try:
                handle = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(card_handle, slot)
            except pynvml.NVMLError_NotFound:
                continue  # an empty slot
            except pynvml.NVMLError as error:
                if error.value == pynvml.NVML_ERROR_GPU_IS_LOST:
                    raise
                self.notes.append(f"MIG instance {slot} of GPU {card.index} could not be read ({_reason(error)}).")
                continue
            who = f"MIG instance {slot} of GPU {card.index}"
            own = self._device(who, handle, card.index)
            attributes = self._ask(f"The size of {who}", pynvml.nvmlDeviceGetAttributes_v2, handle)
            mig = MigInstance(
                profile=own.name.partition("MIG ")[2] or None,
                multiprocessors=attributes.multiprocessorCount if attributes else None,
                card_total_bytes=card.total_bytes,
            )
            instances.append(
                NvmlDevice(
                    index=card.index,
                    name=card.name,
                    uuid=own.uuid,
                    card_uuid=card.uuid,
                    total_bytes=own.total_bytes,
                    free_bytes=own.free_bytes,
                    compute_capability=own.compute_capability or card.compute_capability,
                    processes=own.processes,
                    mig=mig,
                )
            )
        return instances

    def _device(self, who: str, handle: Any, index: int, *, with_processes: bool = True) -> NvmlDevice:
        uuid = self._ask(f"The UUID of {who}", pynvml.nvmlDeviceGetUUID, handle)
        # Version 1 of the call: its total and free are those of version 2, and every driver has it.
        memory = self._ask(f"The memory of {who}", pynvml.nvmlDeviceGetMemoryInfo, handle, feature=False)
        return NvmlDevice(
            index=index,
            name=self._ask(f"The name of {who}", pynvml.nvmlDeviceGetName, handle) or "unknown NVIDIA GPU",
            uuid=uuid,
            card_uuid=uuid,
            total_bytes=memory.total if memory else None,
            free_bytes=memory.free if memory else None,
            compute_capability=self._ask(f"The compute capability of {who}", pynvml.nvmlDeviceGetCudaComputeCapability, handle),
            processes=self._processes(who, handle) if with_processes else (),
        )

    def _processes(self, who: str, handle: Any) -> tuple[GpuProcess, ...]:
        """Compute and graphics processes; one that is both is listed by the driver in both, with the same memory."""
        memory_by_pid: dict[int, int | None] = {}
        for kind in ("Compute", "Graphics"):
            for version in ("_v3", "_v2"):
                call = getattr(pynvml, f"nvmlDeviceGet{kind}RunningProcesses{version}", None)  # some pynvml releases lack one
                found = self._ask(f"The {kind.lower()} processes on {who}", call, handle) if call else None
                if found is not None:
                    memory_by_pid.update({process.pid: process.usedGpuMemory for process in found})
                    break
        return tuple(GpuProcess(pid, _process_name(pid), memory) for pid, memory in memory_by_pid.items())

    def _ask(self, what: str, call: Callable[..., _T], *arguments: Any, feature: bool = True) -> _T | None:
        """The answer, or None with a note. `feature`: the card or driver may do without it, then no note."""
        try:
            return call(*arguments)
        except pynvml.NVMLError as error:
            if error.value == pynvml.NVML_ERROR_GPU_IS_LOST and arguments:  # without arguments it was no question about a card
                raise
            if not (feature and error.value in _FEATURE_ABSENT):
                self._note(f"{what} could not be read ({_reason(error)}).")
        except UnicodeDecodeError:
            self._note(f"{what} could not be read (not text).")
        return None

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def _reason(error: pynvml.NVMLError) -> str:
    """The driver's words without its full stop. Asking an old library for them can fail in itself."""
    try:
        return str(error).rstrip(".")
    except pynvml.NVMLError:
        return f"NVML error {error.value}"


def _process_name(pid: int) -> str | None:
    """The name that this machine (or container) knows the process by; None when it is gone or hidden."""
    import psutil

    try:
        name = psutil.Process(pid).name()
    except (psutil.Error, ValueError, OverflowError):
        return None
    return "".join(character if character.isprintable() else "?" for character in name)
