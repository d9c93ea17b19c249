"""CUDA_VISIBLE_DEVICES: which GPUs CUDA shows to this process."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftadvise.profiles.nvml import NvmlDevice


def select_visible(value: str | None, devices: Sequence[NvmlDevice]) -> tuple[NvmlDevice, ...]:
    """The devices that remain, in the order CUDA numbers them.

    As the CUDA runtime reads it (CUDA C++ Programming Guide, environment variables; the same in torch.cuda): a comma-separated list of
    indices, or of UUIDs, which may be cut short ("GPU-8932f937") when that is unambiguous. The first invalid entry ends the list; an
    entry named twice leaves no device; an empty value hides all. Indices are NVML's, which are CUDA's under
    CUDA_DEVICE_ORDER=PCI_BUS_ID or when all cards are alike. An index or UUID of a card in MIG mode stands for its instances.
    """
    if value is None:
        return tuple(devices)
    chosen: list[NvmlDevice] = []
    for entry in value.split(","):
        found = _find(entry.strip(), devices)
        if not found:
            break
        if any(device in chosen for device in found):
            return ()
        chosen.extend(found)
    return tuple(chosen)


def _find(entry: str, devices: Sequence[NvmlDevice]) -> list[NvmlDevice]:
    """The device of one entry (all MIG instances of a card); empty when the entry is invalid or ambiguous."""
    if entry.startswith(("GPU-", "MIG-")):
        exact = [device for device in devices if entry in (device.uuid, device.card_uuid)]
        if exact:
            return exact
        started = [device for device in devices if any(uuid and uuid.startswith(entry) for uuid in (device.uuid, device.card_uuid))]
        return started if len({device.index for device in started}) == 1 and (entry.startswith("GPU-") or len(started) == 1) else []
    digits = re.match(r"\+?([0-9]{1,9})", entry)  # like strtoul: "1st" is 1
    return [device for device in devices if device.index == int(digits[1])] if digits else []
