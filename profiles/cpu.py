"""The processor and the memory of this machine, as far as this process may use them."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from ftadvise.profiles.cgroup import CgroupLimits, read_cgroup_limits
from ftadvise.profiles.hardware import Cpu

_MEMINFO = ("MemTotal", "MemAvailable")


@dataclass(frozen=True, slots=True)
class Ram:
    """Main memory in bytes. `total_bytes` is what this process may use; `machine_bytes` is more when a control group limits it."""

    total_bytes: int
    available_bytes: int
    machine_bytes: int


def probe_cpu(root: Path = Path("/"), limits: CgroupLimits | None = None) -> Cpu:
    """Name, cores and number formats of the processor.

    Cores are those this process may run on: the affinity mask and the control group's quota, rounded up, count. Formats come from the
    kernel's feature flags on Linux and from sysctl on macOS; elsewhere they count as absent.

    Args:
        root: where `/proc` hangs; another folder in tests.
        limits: the control group's limits when they are known already.
    """
    import platform

    if limits is None:
        limits = read_cgroup_limits(root)
    machine_cores = os.cpu_count() or 1
    logical = min(_affinity() or machine_cores, math.ceil(limits.cpus or machine_cores))
    name, flags = _name_and_flags(root)
    return Cpu(
        name=name or platform.processor() or platform.machine() or "unknown",
        physical_cores=max(1, min(_physical_cores(root) or machine_cores, logical)),
        logical_cores=max(1, logical),
        supports_bf16=bool(flags & {"avx512_bf16", "amx_bf16", "bf16"}),
        supports_amx="amx_bf16" in flags,
        supports_avx512="avx512f" in flags,
    )


def probe_ram(limits: CgroupLimits) -> Ram:
    """Total and available main memory, never more than the control group allows."""
    machine, free = _machine_memory()
    total = min(machine, limits.memory_bytes or machine)
    available = free if limits.headroom_bytes is None else min(free, limits.headroom_bytes)
    return Ram(total_bytes=total, available_bytes=min(available, total), machine_bytes=machine)


def _machine_memory(root: Path = Path("/")) -> tuple[int, int]:
    """(total, available) bytes: /proc/meminfo, which is where psutil has them from on Linux but without its 25 ms of import."""
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = {key: int(value.split()[0]) for key, _, value in (line.partition(":") for line in lines) if key in _MEMINFO}
        total, available = (kilobytes[key] << 10 for key in _MEMINFO)
    except (OSError, ValueError, KeyError, IndexError):  # another system, or a kernel before 3.14
        import psutil

        memory = psutil.virtual_memory()
        return memory.total, memory.available
    return total, available


def _physical_cores(root: Path) -> int | None:
    """How many cores there are, logical ones of one core counted once; the kernel's own list first, as for `_machine_memory`."""
    try:
        siblings = {path.read_text(encoding="ascii") for path in root.glob("sys/devices/system/cpu/cpu[0-9]*/topology/core_cpus_list")}
    except (OSError, ValueError):
        siblings = set()
    if siblings:
        return len(siblings)
    import psutil

    cores: int | None = psutil.cpu_count(logical=False)
    return cores


def _affinity() -> int | None:
    """How many logical cores this process may run on (None: the system does not say, as on macOS and Windows)."""
    get = getattr(os, "sched_getaffinity", None)
    return len(get(0)) if get else None


def _name_and_flags(root: Path) -> tuple[str | None, frozenset[str]]:
    """From /proc/cpuinfo: x86 names its features `flags`, Arm `Features` (and often no model)."""
    if sys.platform == "darwin":
        return _macos()
    name, flags = None, frozenset[str]()
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None, flags
    for line in text.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "model name" and name is None:
            name = value
        if key in ("flags", "Features"):
            flags = frozenset(value.split())
        if name and flags:
            break
    return name, flags


def _macos() -> tuple[str | None, frozenset[str]]:
    import subprocess

    def sysctl(key: str) -> str:
        try:
            done = subprocess.run(["/usr/sbin/sysctl", "-n", key], capture_output=True, text=True, timeout=2, check=False)  # noqa: S603
        except (OSError, subprocess.SubprocessError):
            return ""
        return done.stdout.strip()

    flags = {"bf16"} if sysctl("hw.optional.arm.FEAT_BF16") == "1" else set()
    return sysctl("machdep.cpu.brand_string") or None, frozenset(flags)
