"""Calibration: what was measured on this very machine, and what may be concluded from it. Pure values; `calibration_store` has the file.

Two kinds of entries: a `DeviceCalibration` holds the figures of `Rates` that `ftadvise calibrate` measured, and a `RunRecord` what a
finished training run reached beside what was predicted for it. Both carry the `Device` they hold for, and apply to no other: another
GPU, another driver, another torch, other threads are another device. What depends on bitsandbytes applies to its version only.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ftadvise.estimator.speed.rates import Rates
from ftadvise.profiles.hardware import Hardware

DeviceKind = Literal["cuda", "cpu"]
RunKind = Literal["run", "calibration"]
CALIBRATED_INTERVAL = (0.8, 1.25)
"""What is left when the device's own figures are known: the error of the step-time model itself, 90 % within 20 %."""


@dataclass(frozen=True, slots=True)
class Device:
    """What a measurement holds for. Two devices are the same when every field is.

    Args:
        memory_bytes: of the GPU; 0 on a CPU, whose speed does not depend on it.
        compute_capability: "8.9"; "" on a CPU.
        driver: its version; "" on a CPU.
        cores: that the process may use; 0 on a GPU.
        threads: OMP_NUM_THREADS where it is set, else 0: as many as torch chooses. 0 on a GPU.
        torch: its version with the build ("2.13.0+cpu").
    """

    kind: DeviceKind
    name: str
    memory_bytes: int
    compute_capability: str
    driver: str
    cores: int
    threads: int
    torch: str

    @classmethod
    def of(cls, hardware: Hardware) -> Device | None:
        """The device that a recipe would run on; None where nothing can have been measured: a GPU that is only named, or no torch.

        The CPU of `hardware` is always this machine's, also when it is named.
        """
        if hardware.gpus and hardware.source == "named":
            return None
        torch = installed_version("torch")
        if torch is None:
            return None
        gpu = hardware.gpu
        if gpu is None:
            cpu = hardware.cpu
            return cls("cpu", cpu.name, 0, "", "", cpu.logical_cores, _threads(), torch)
        capability = "" if gpu.compute_capability is None else "{}.{}".format(*gpu.compute_capability)
        return cls("cuda", gpu.name, gpu.memory_bytes, capability, hardware.driver_version or "", 0, 0, torch)


@dataclass(frozen=True, slots=True)
class DeviceCalibration:
    """Figures of one device; a figure that was not measured is missing. `Rates` says what each means.

    Args:
        created: when, ISO 8601; also its name: records of runs say which calibration their prediction used.
        versions: of the packages that took part.
        context_bytes: what the CUDA context takes beside torch's allocator.
    """

    device: Device
    created: str
    versions: Mapping[str, str] = field(default_factory=dict)
    matmul_flops_per_s: Mapping[str, float] = field(default_factory=dict)
    bandwidth_bytes_per_s: float | None = None
    dequantize_bytes_per_s: Mapping[str, float] = field(default_factory=dict)
    attention_share: Mapping[str, float] = field(default_factory=dict)
    kernel_s: float | None = None
    host_s: Mapping[str, float] = field(default_factory=dict)
    processors: int | None = None
    context_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One finished run. Speeds are padded tokens per second, both at the mean batch of the steps that were timed.

    Args:
        kind: "run", or "calibration": the steps with random weights that `ftadvise calibrate` checks itself with.
        model: its id.
        recipe: every field, as `Recipe.to_dict` gives them.
        stack: its name; `versions` of its packages.
        ftadvise: the version that predicted.
        rates: `created` of the device calibration that the prediction used; "" when it used the data sheet.
        predicted_tokens_per_second: not corrected by earlier runs.
        steps: timed ones.
    """

    device: Device
    created: str
    kind: RunKind
    model: str
    recipe: Mapping[str, Any]
    stack: str
    versions: Mapping[str, str]
    ftadvise: str
    rates: str
    predicted_tokens_per_second: float
    measured_tokens_per_second: float
    predicted_peak_bytes: int
    measured_peak_bytes: int
    steps: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """Everything that is stored; `runs` from the oldest to the newest."""

    devices: tuple[DeviceCalibration, ...] = ()
    runs: tuple[RunRecord, ...] = ()

    def of(self, device: Device | None) -> DeviceCalibration | None:
        """The figures of this device, or None."""
        return next((each for each in self.devices if each.device == device), None)


def calibrated_rates(rates: Rates | None, hardware: Hardware, calibration: Calibration) -> Rates | None:
    """`rates` with the figures that were measured on this device in place of those from the data sheet.

    A device that has no profile (`rates` None) gets rates when everything that they need was measured; without a calibration of this
    device `rates` come back as they are.
    """
    found = calibration.of(Device.of(hardware))
    if found is None:
        return rates
    figures: dict[str, Any] = {
        "matmul_flops_per_s": {**(rates.matmul_flops_per_s if rates else {}), **found.matmul_flops_per_s},
        "dequantize_bytes_per_s": {**(rates.dequantize_bytes_per_s if rates else {}), **_expansion_rates(found)},
        "attention_share": {**(rates.attention_share if rates else {}), **found.attention_share},
        "host_s": {**(rates.host_s if rates else {}), **found.host_s},
        "interval": CALIBRATED_INTERVAL,
        "basis": "calibrated",
        "sources": (f"ftadvise calibrate, {found.created}", *(rates.sources if rates else ())),
    }
    for name in ("bandwidth_bytes_per_s", "kernel_s", "processors"):
        if (value := getattr(found, name)) is not None:
            figures[name] = value
    if rates is not None:
        return dataclasses.replace(rates, **figures)
    complete = all(figures[name] for name in ("matmul_flops_per_s", "attention_share", "host_s")) and "kernel_s" in figures
    return Rates(**figures) if complete and "bandwidth_bytes_per_s" in figures else None


def rates_name(hardware: Hardware, calibration: Calibration) -> str:
    """What `RunRecord.rates` says of a prediction made now."""
    found = calibration.of(Device.of(hardware))
    return found.created if found else ""


@functools.cache
def installed_version(package: str) -> str | None:
    """Version of an installed package, without importing it (milliseconds); None where it is not installed."""
    import importlib.metadata  # a hundredth of a second, for which only a stored calibration asks

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _expansion_rates(found: DeviceCalibration) -> Mapping[str, float]:
    same = found.versions.get("bitsandbytes") == installed_version("bitsandbytes")
    return found.dequantize_bytes_per_s if same else {}


def _threads() -> int:
    """OMP_NUM_THREADS as OpenMP reads it: of a list, the first."""
    text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(text) if text.isdecimal() else 0
