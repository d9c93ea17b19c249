"""Machines, figures and runs for tests of the calibration."""

from __future__ import annotations

import dataclasses
from typing import Any

from ftadvise.estimator.calibration import Device, DeviceCalibration, RunRecord
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.speed.rates import Rates
from ftadvise.estimator.stack import stack_of
from ftadvise.profiles.hardware import Cpu, Gpu, Hardware
from ftadvise.profiles.resolve_model import resolve_model

CPU = Hardware((), Cpu("some cpu", 2, 4, supports_bf16=False, supports_amx=False), 16 << 30, 12 << 30, "probed")
GPU = dataclasses.replace(
    CPU, gpus=(Gpu("Card", "NVIDIA", "unknown", 8 << 30, compute_capability=(8, 6), uuid="GPU-1"),), driver_version="590.1"
)
VERSIONS = {"torch": "2.13.0", "bitsandbytes": "0.50.2", "ftadvise": "0.1.0"}
RATES = Rates(
    {"fp32": 1e11, "bf16": 2e10}, 1e10, {"nf4": 1e9}, {"forward": 0.5, "backward": 0.4}, 1e-6, {"forward": 1e-5, "backward": 9e-6}
)
MODEL = resolve_model("Qwen/Qwen2.5-0.5B")
RECIPE = Recipe(compute_dtype="fp32")
STACK = stack_of("trl")


def device(hardware: Hardware = CPU) -> Device:
    """The device of a machine."""
    found = Device.of(hardware)
    assert found is not None
    return found


def measured(hardware: Hardware = CPU, **figures: Any) -> DeviceCalibration:
    """What a calibration found there."""
    values = {"created": "2026-01-01T00:00:00+00:00", "versions": VERSIONS, "matmul_flops_per_s": {"fp32": 3e11}, **figures}
    return DeviceCalibration(device(hardware), **values)


def finished(ratio: float = 1.0, hardware: Hardware = CPU, recipe: Recipe = RECIPE, **fields: Any) -> RunRecord:
    """A run that was `ratio` times as fast as predicted."""
    values: dict[str, Any] = {
        "created": "2026-01-02T00:00:00+00:00",
        "kind": "run",
        "model": MODEL.id,
        "recipe": recipe.to_dict(),
        "stack": "trl",
        "versions": VERSIONS,
        "ftadvise": "0.1.0",
        "rates": "",
        "predicted_tokens_per_second": 100.0,
        "measured_tokens_per_second": 100.0 * ratio,
        "predicted_peak_bytes": 10,
        "measured_peak_bytes": 11,
        "steps": 3,
    }
    return RunRecord(device(hardware), **(values | fields))
