"""The hardware probe: this machine as a `Hardware`, whatever state it is in."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from ftadvise.profiles.cgroup import read_cgroup_limits
from ftadvise.profiles.cpu import probe_cpu, probe_ram
from ftadvise.profiles.gpu_cards import GpuCard, card_to_gpu
from ftadvise.profiles.hardware import GIB, Gpu, Hardware
from ftadvise.profiles.resolve_gpu import match_nvml_card, resolve_gpus
from ftadvise.profiles.visible_devices import select_visible

if TYPE_CHECKING:
    from ftadvise.profiles.nvml import MigInstance, NvmlDevice

_SHARED_OUT = (
    "bandwidth_bytes_per_s",
    "fp32_flops_per_s",
    "tf32_flops_per_s",
    "fp16_flops_per_s",
    "bf16_flops_per_s",
    "int8_ops_per_s",
)


def probe() -> Hardware:
    """The GPUs this process may use, with their memory as the driver reports it and their rates from the profiles; CPU and RAM.

    Having no GPU, no driver or a broken one is a state, told in `notes`, and never an error. CUDA_VISIBLE_DEVICES and control-group
    limits are respected. Used memory is `memory_bytes - free_bytes`; it includes what the driver keeps for itself.
    """
    from ftadvise.profiles.nvml import read_nvml  # pynvml is slow to load, and named hardware does without

    reading = read_nvml()
    notes = list(reading.notes)
    visible_setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = select_visible(visible_setting, reading.devices)
    hidden = len(reading.devices) - len(visible)
    if hidden:
        notes.append(f"CUDA_VISIBLE_DEVICES={_shown(visible_setting)} hides {hidden} of {len(reading.devices)} GPUs.")
    by_index = visible_setting is not None and not visible_setting.startswith(("GPU-", "MIG-"))
    if hidden and by_index and len({device.name for device in reading.devices}) > 1 and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        notes.append("The cards differ, so CUDA may number them otherwise than shown here; set CUDA_DEVICE_ORDER=PCI_BUS_ID.")
    gpus: list[Gpu] = []
    for device in visible:
        gpu, device_notes = _gpu(device)
        gpus.extend([gpu] if gpu else [])
        notes.extend(note for note in device_notes if note not in notes)
    return _machine(tuple(gpus), notes, source="probed", driver_version=reading.driver_version, cuda_version=reading.cuda_version)


def named_hardware(gpu_text: str) -> Hardware:
    """A machine with the GPUs that the user names; CPU and RAM are this machine's and only informative.

    Raises:
        InputError: as `resolve_gpus`.
    """
    return _machine(resolve_gpus(gpu_text), [], source="named")


def _machine(
    gpus: tuple[Gpu, ...],
    notes: list[str],
    *,
    source: Literal["probed", "named"],
    driver_version: str | None = None,
    cuda_version: str | None = None,
) -> Hardware:
    limits = read_cgroup_limits()
    ram = probe_ram(limits)
    if ram.total_bytes < ram.machine_bytes:
        machine = f"{ram.machine_bytes / GIB:.1f} GiB of RAM"
        notes = [*notes, f"A control group limits this process to {ram.total_bytes / GIB:.1f} GiB of the machine's {machine}."]
    return Hardware(
        gpus=gpus,
        cpu=probe_cpu(limits=limits),
        ram_bytes=ram.total_bytes,
        ram_available_bytes=ram.available_bytes,
        source=source,
        driver_version=driver_version,
        cuda_version=cuda_version,
        notes=tuple(notes),
    )


def _gpu(device: NvmlDevice) -> tuple[Gpu | None, list[str]]:
    """The device with the rates of its profile, and what there is to say about it."""
    notes = []
    card_total = device.mig.card_total_bytes if device.mig else device.total_bytes
    card = match_nvml_card(device.name, card_total or 0)
    total = device.total_bytes
    if total is None and device.mig is None and card is not None and card.memory_bytes is not None:
        total = card.memory_bytes
        notes.append(f"The driver does not say how much memory GPU {device.index} has; its profile ({card.name}) does.")
    if total is None:
        return None, [f"GPU {device.index} ({device.name}) is left out: its memory is not known."]
    if card is None:
        notes.append(f"{device.name} is not among the GPU profiles: its speed is not known, only its memory.")
        gpu = _unknown_gpu(device, total)
    else:
        gpu = card_to_gpu(card, memory_bytes=total)
        gpu = replace(gpu, compute_capability=device.compute_capability or gpu.compute_capability)
    if device.mig is not None:
        gpu = _mig_share(gpu, device.mig, card)
    gpu = replace(gpu, free_bytes=device.free_bytes, index=device.index, uuid=device.uuid, processes=device.processes)
    return gpu, notes


def _unknown_gpu(device: NvmlDevice, total_bytes: int) -> Gpu:
    """A card without a profile: what the compute capability alone decides, by the rules of `gpus/_sources.yaml`."""
    capability = device.compute_capability
    return Gpu(
        name=device.name,
        vendor="NVIDIA",
        arch="unknown",
        memory_bytes=total_bytes,
        compute_capability=capability,
        supports_bf16=capability is not None and capability >= (8, 0),
        supports_flash_attention_2=None if capability is None else capability >= (8, 0),
        supports_bitsandbytes=capability is None or capability >= (6, 0),
    )


def _mig_share(gpu: Gpu, mig: MigInstance, card: GpuCard | None) -> Gpu:
    """The whole card's figures brought down to one MIG instance.

    Compute goes by multiprocessors (instance / card); bandwidth by memory, because each memory slice brings its own channels
    (NVIDIA Multi-Instance GPU User Guide: a slice has about one eighth of memory and bandwidth). Measured instances can differ by the
    clock they reach, so all of these are marked unconfirmed. Power, NVLink, PCIe and price are the card's, not the instance's: None.
    """
    compute = mig.multiprocessors / card.sm_count if card and card.sm_count and mig.multiprocessors else None
    memory = gpu.memory_bytes / mig.card_total_bytes if mig.card_total_bytes else None

    def share(value: float | None, fraction: float | None) -> float | None:
        return None if value is None or fraction is None else value * fraction

    shared = replace(
        gpu,
        name=f"{gpu.name} MIG {mig.profile or 'instance'}",
        bandwidth_bytes_per_s=share(gpu.bandwidth_bytes_per_s, memory),
        fp32_flops_per_s=share(gpu.fp32_flops_per_s, compute),
        tf32_flops_per_s=share(gpu.tf32_flops_per_s, compute),
        fp16_flops_per_s=share(gpu.fp16_flops_per_s, compute),
        bf16_flops_per_s=share(gpu.bf16_flops_per_s, compute),
        int8_ops_per_s=share(gpu.int8_ops_per_s, compute),
        processors=mig.multiprocessors,
        tdp_w=None,
        nvlink_bytes_per_s=None,
        pcie_bytes_per_s=None,
        price_usd_per_hour=None,
        mig=True,
    )
    estimated = [field for field in _SHARED_OUT if getattr(shared, field) is not None]
    kept = [field for field in gpu.unconfirmed if getattr(shared, field) is not None]
    return replace(shared, unconfirmed=tuple(dict.fromkeys((*kept, *estimated))))


def _shown(value: str | None) -> str:
    """An environment value fit for one line."""
    text = "".join(character if character.isprintable() else "?" for character in value or "")
    return f"'{text if len(text) <= 60 else text[:57] + '...'}'"
