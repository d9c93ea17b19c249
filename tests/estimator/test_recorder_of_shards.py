"""The storage recorder sees what one of several processes holds under FSDP2: shards, what is gathered and freed again, no phantoms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from ftadvise.estimator.storage_recorder import StorageRecorder, local_part  # noqa: E402

PROCESSES, WIDTH, LAYERS = 4, 256, 3
MATRIX = WIDTH * WIDTH * 4
"""Bytes of one layer's weight."""


@pytest.fixture
def sharded() -> Iterator[Any]:
    """Three linear layers, each a unit, on the first of four processes of which the others are not there."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=PROCESSES, store=FakeStore())
    try:
        mesh = init_device_mesh("cpu", (PROCESSES,))
        layers = [torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)]
        model = torch.nn.Sequential(*[fully_shard(layer, mesh=mesh) for layer in layers])
        yield fully_shard(model, mesh=mesh)
    finally:
        dist.destroy_process_group()


def test_each_step_begins_with_the_shards_and_gathers_a_layer_or_two(sharded: Any) -> None:
    recorder, optimizer = StorageRecorder("cpu"), torch.optim.AdamW(sharded.parameters())
    resize = torch.UntypedStorage.resize_
    held = []
    for _ in range(2):
        with recorder:
            recorder.adopt([parameter.data for parameter in sharded.parameters()], "weights")
            held.append(recorder.current_bytes)
            recorder.phase = "forward"
            loss = sharded(torch.ones(1, WIDTH)).sum()
            recorder.phase = "backward"
            loss.backward()
            del loss
            recorder.phase = "optimizer_step"
            optimizer.step()
        optimizer.zero_grad()
    peaks = recorder.peaks()
    shards = LAYERS * MATRIX // PROCESSES
    small = MATRIX // 8  # activations of one row, the step counters
    assert held[0] == shards
    assert held[1] == pytest.approx(3 * shards, abs=small), "the second step begins with the optimizer's two moments"
    # FSDP2 copies out of what it gathered, and prefetches the next layer: freed as soon as the layer is done, which is no operation
    assert held[1] + MATRIX < peaks["forward"].total_bytes < held[1] + 4 * MATRIX + small
    assert held[1] + shards < peaks["optimizer_step"].total_bytes < held[1] + 2 * shards + small, "gradients, and Adam's temporaries"
    assert torch.UntypedStorage.resize_ is resize, "nothing stays behind"


def test_a_dtensor_counts_with_its_own_part(sharded: Any) -> None:
    parameter = next(sharded.parameters())
    assert local_part(parameter).numel() == parameter.numel() // PROCESSES
    plain = torch.ones(3)
    assert local_part(plain) is plain


def test_a_storage_that_is_emptied_and_refilled_is_followed() -> None:
    recorder = StorageRecorder("cpu")
    with recorder:
        tensor = torch.ones(1000)
        storage = tensor.untyped_storage()
        storage.resize_(0)
        emptied = recorder.current_bytes
        storage.resize_(4000)
    assert (emptied, recorder.current_bytes) == (0, 4000)


def test_fake_tensors_take_no_memory() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    recorder = StorageRecorder("cpu")
    with recorder, FakeTensorMode():
        held = torch.ones(1_000_000)
    assert held.device.type == "cpu"
    assert recorder.peaks() == {}
