"""What a training process can take of a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ftadvise.estimator.device_memory import available_bytes
from ftadvise.profiles.resolve_gpu import resolve_gpus

GIB, MIB = 1 << 30, 1 << 20


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        ("T4", 14.74),
        ("L4", 22.16),
        ("L40S", 44.42),
        ("A100-40GB", 39.56),
        ("A100-80GB", 79.25),
        ("H100 SXM", 79.18),
        ("V100 SXM2 32GB", 31.74),
    ],
)
def test_a_server_has_nearly_all_that_cuda_shows(name: str, gib: float) -> None:
    (gpu,) = resolve_gpus(name)
    assert available_bytes(gpu) == pytest.approx(gib * GIB, abs=20 * MIB)


def test_a_card_that_may_drive_a_screen_keeps_some_back() -> None:
    (gpu,) = resolve_gpus("RTX 4090")
    assert gpu.visible_bytes is not None
    assert available_bytes(gpu) == gpu.visible_bytes - 300 * MIB
    assert gpu.visible_bytes < 23.7 * GIB


def test_a_probed_gpu_has_what_is_free_and_one_without_a_figure_its_memory() -> None:
    (gpu,) = resolve_gpus("T4")
    assert available_bytes(replace(gpu, free_bytes=3 * GIB)) == 3 * GIB
    assert available_bytes(replace(gpu, visible_bytes=None)) == 16 * GIB - 16 * MIB
