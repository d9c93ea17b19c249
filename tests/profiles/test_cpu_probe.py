"""CPU, RAM and control groups, read from a made-up /proc and /sys."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from ftadvise.profiles.cgroup import CgroupLimits, read_cgroup_limits
from ftadvise.profiles.cpu import probe_cpu, probe_ram
from ftadvise.profiles.probe import named_hardware, probe

GIB = 1 << 30


def _tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_version_2_limits_of_ancestors_bind_too(tmp_path: Path) -> None:
    root = _tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/box\n",
            "sys/fs/cgroup/pod/memory.max": str(8 * GIB),
            "sys/fs/cgroup/pod/memory.current": str(6 * GIB),
            "sys/fs/cgroup/pod/memory.stat": f"anon 5\ninactive_file {1 * GIB}\n",
            "sys/fs/cgroup/pod/cpu.max": "max 100000\n",
            "sys/fs/cgroup/pod/box/memory.max": "max\n",
            "sys/fs/cgroup/pod/box/cpu.max": "150000 100000\n",
        },
    )
    assert read_cgroup_limits(root) == CgroupLimits(memory_bytes=8 * GIB, headroom_bytes=3 * GIB, cpus=1.5)


def test_version_1_limits_are_found_when_the_path_is_the_hosts(tmp_path: Path) -> None:
    root = _tree(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/x\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(4 * GIB),
            "sys/fs/cgroup/memory/memory.usage_in_bytes": str(5 * GIB),
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
    )
    assert read_cgroup_limits(root) == CgroupLimits(memory_bytes=4 * GIB, headroom_bytes=0, cpus=None)


@pytest.mark.parametrize("text", ["", "garbage", "0::/../../outside\n", "x:memory"])
def test_no_readable_control_group_is_no_limit(tmp_path: Path, text: str) -> None:
    assert read_cgroup_limits(_tree(tmp_path, {"proc/self/cgroup": text})) == CgroupLimits()


def test_ram_is_never_more_than_the_control_group_allows() -> None:
    machine = psutil.virtual_memory().total
    limited = probe_ram(CgroupLimits(memory_bytes=GIB, headroom_bytes=GIB // 4))
    assert (limited.total_bytes, limited.machine_bytes) == (GIB, machine)
    assert limited.available_bytes <= GIB // 4
    assert probe_ram(CgroupLimits(memory_bytes=machine * 2)).total_bytes == machine  # version 1 writes a huge number for "none"


@pytest.mark.parametrize(
    ("cpuinfo", "name", "bf16", "amx", "avx512"),
    [
        ("model name\t: Xeon\nflags\t\t: avx512f avx512_bf16 amx_bf16 amx_tile\n", "Xeon", True, True, True),
        ("model name\t: Zen 4\nflags\t\t: avx512f avx512_bf16\n", "Zen 4", True, False, True),
        ("model name\t: Zen 3\nflags\t\t: avx2 fma\n", "Zen 3", False, False, False),
        ("BogoMIPS\t: 50\nFeatures\t: fp asimd i8mm bf16\n", None, True, False, False),
        ("", None, False, False, False),
    ],
)
@pytest.mark.skipif(os.name != "posix" or not Path("/proc/cpuinfo").exists(), reason="/proc/cpuinfo is Linux's")
def test_number_formats_come_from_the_feature_flags(
    tmp_path: Path, cpuinfo: str, name: str | None, bf16: bool, amx: bool, avx512: bool
) -> None:
    cpu = probe_cpu(_tree(tmp_path, {"proc/cpuinfo": cpuinfo}))
    assert (cpu.supports_bf16, cpu.supports_amx, cpu.supports_avx512) == (bf16, amx, avx512)
    assert cpu.name == name if name else cpu.name


def test_cores_are_those_that_the_quota_leaves() -> None:
    assert probe_cpu(limits=CgroupLimits(cpus=0.5)).logical_cores == 1
    free = probe_cpu(limits=CgroupLimits())
    assert 1 <= free.physical_cores <= free.logical_cores <= (os.cpu_count() or 1)


def test_named_hardware_takes_the_gpus_from_the_user_and_the_rest_from_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # is about this machine's cards only
    named, probed = named_hardware("2x A100-80GB"), probe()
    assert [gpu.name for gpu in named.gpus] == ["A100 SXM4 80GB"] * 2
    assert (named.source, probed.source) == ("named", "probed")
    assert (named.cpu, named.ram_bytes) == (probed.cpu, probed.ram_bytes)
    assert named.gpu is not None
    assert named.gpu.free_bytes is None
    assert (named_hardware("cpu").gpus, probed.gpus) == ((), ())
