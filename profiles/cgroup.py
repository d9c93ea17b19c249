"""What a container or a batch system leaves us of the machine: Linux control groups, version 1 and 2.

Inside a container the kernel's own figures (`/proc/meminfo`, the number of cores) are the whole machine's. A limit on any ancestor
group binds too, so each is read and the tightest counts. Sources: kernel documentation, admin-guide/cgroup-v2 (memory.max,
memory.current, cpu.max) and cgroup-v1 (memory.limit_in_bytes, cpu.cfs_quota_us / cpu.cfs_period_us).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CgroupLimits:
    """Limits of this process's groups; None = not limited. `headroom_bytes` is what may still be allocated before the limit."""

    memory_bytes: int | None = None
    headroom_bytes: int | None = None
    cpus: float | None = None


@dataclass(frozen=True, slots=True)
class _MemoryFiles:
    limit: str
    used: str
    reclaimable: str


_V1 = _MemoryFiles("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _MemoryFiles("memory.max", "memory.current", "inactive_file")


def read_cgroup_limits(root: Path = Path("/")) -> CgroupLimits:
    """The limits that bind this process. No control groups, or unreadable ones: no limit.

    Args:
        root: where `/proc` and `/sys` hang; another folder in tests.
    """
    mount = root / "sys/fs/cgroup"
    memory: list[tuple[int, int]] = []
    cpus: list[float] = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            for folder in _with_ancestors(mount, path):
                memory.extend(_memory(folder, _V2))
                quota, _, period = _text(folder / "cpu.max").partition(" ")
                cpus.extend(_ratio(quota, period))
        for controller in controllers.split(","):
            for folder in _with_ancestors(mount / controller, path):
                if controller == "memory":
                    memory.extend(_memory(folder, _V1))
                if controller == "cpu":
                    cpus.extend(_ratio(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")))
    return CgroupLimits(
        memory_bytes=min((limit for limit, _ in memory), default=None),
        headroom_bytes=min((headroom for _, headroom in memory), default=None),
        cpus=min(cpus, default=None),
    )


def _with_ancestors(mount: Path, path: str) -> Iterator[Path]:
    """The group's folder and those above it, up to the mount. In a container the path is often of the host and not there: skipped."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    for depth in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:depth])


def _memory(folder: Path, files: _MemoryFiles) -> Iterator[tuple[int, int]]:
    """(limit, headroom) of one group. Cached file pages that the kernel gives back under pressure do not count as used."""
    limit = _text(folder / files.limit)
    if not limit.isdecimal():  # absent, or "max"
        return
    used = _text(folder / files.used)
    reclaimable = dict(line.split(" ", 1) for line in _text(folder / "memory.stat").splitlines() if " " in line).get(files.reclaimable, "0")
    in_use = int(used) - int(reclaimable) if used.isdecimal() and reclaimable.isdecimal() else 0
    yield int(limit), max(0, int(limit) - max(0, in_use))


def _ratio(quota: str, period: str) -> Iterator[float]:
    """CPU time per time, in CPUs. A quota of -1 or "max" is none."""
    if quota.isdecimal() and period.isdecimal() and int(quota) > 0 and int(period) > 0:
        yield int(quota) / int(period)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
