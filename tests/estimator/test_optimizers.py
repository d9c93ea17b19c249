"""Optimizer memory counted by hand, and its two readings (peaks of abridged lists, full event lists) against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.estimator.optimizers import OptimizerMemory, TrainedTensor, optimizer_memory, step_timeline
from ftadvise.estimator.recipe import Optimizer

OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
# Mistral-7B in full: embedding, 32 layers (q, k, v, o, gate, up, down, two norms), last norm, head
LAYER = [(4096, 4096), (1024, 4096), (1024, 4096), (4096, 4096), (14336, 4096), (14336, 4096), (4096, 14336)]
MISTRAL = [
    TrainedTensor.of_shape((32000, 4096), 2, embedding=True),
    *(TrainedTensor.of_shape(shape, 2, count=32) for shape in LAYER),
    *[TrainedTensor.of_shape((4096,), 2, count=32, decays=False)] * 2,
    TrainedTensor.of_shape((4096,), 2, decays=False),
    TrainedTensor.of_shape((32000, 4096), 2),
]
EMBEDDING = 32000 * 4096
NORMS = 65 * 4096
MATRICES = 2 * EMBEDDING + 32 * sum(rows * columns for rows, columns in LAYER)


def memory(optimizer: Optimizer, tensors: Sequence[TrainedTensor] = MISTRAL, device: str = "cuda") -> OptimizerMemory:
    return optimizer_memory(optimizer, tensors, device=device)


def test_adamw_of_a_whole_model_peaks_at_ten_bytes_per_parameter() -> None:
    # published: full fine-tuning of Mistral-7B in bf16 peaks at 67.46 GiB, 10 bytes for each of its 7.24e9 parameters
    adamw = memory("adamw_torch")
    assert adamw.state_bytes == 4 * (MATRICES + NORMS)
    assert adamw.step_peak_bytes == 2 * MATRICES  # norms are a group of their own
    weights_and_gradients = 4 * (MATRICES + NORMS)
    assert (weights_and_gradients + adamw.state_bytes + adamw.step_peak_bytes) / 2**30 == pytest.approx(67.46, abs=0.02)


def test_first_adamw_step_peaks_before_the_norms_have_state() -> None:
    assert memory("adamw_torch").first_step_peak_bytes == 2 * MATRICES - 4 * NORMS


def test_fused_adamw_needs_its_state_and_nothing_else() -> None:
    fused = memory("adamw_torch_fused")
    assert fused.state_bytes == 4 * (MATRICES + NORMS) + 4 * (32 * 9 + 3)
    assert fused.step_peak_bytes == fused.first_step_peak_bytes == 0


def test_plain_sgd_needs_nothing() -> None:
    sgd = memory("sgd")
    assert (sgd.state_bytes, sgd.step_peak_bytes, sgd.first_step_peak_bytes) == (0, 0, 0)


def test_8bit_state_but_fp32_for_small_tensors_and_embeddings() -> None:
    tensors = [TrainedTensor.of_shape(shape, 2, embedding=e) for shape, e in (((100, 50), True), ((4095,), False), ((4096,), False))]
    assert memory("adamw_8bit", tensors).state_bytes == 8 * 5000 + 8 * 4095 + 2 * (4096 + 4 * 16) + 2 * 1024
    assert memory("lion_8bit", tensors).state_bytes == 4 * 5000 + 4 * 4095 + (4096 + 4 * 16) + 1024
    assert memory("lion_8bit", tensors[:2]).state_bytes == 4 * 9095  # no 8-bit tensor: the code book stays on the CPU


def test_lion_keeps_one_fp32_moment() -> None:
    assert memory("lion_32bit").state_bytes == 4 * (MATRICES + NORMS)


@pytest.mark.parametrize(("optimizer", "moment"), [("paged_adamw_32bit", 4), ("paged_adamw_8bit", 1)])
def test_large_states_are_paged_and_their_absmax_is_not(optimizer: Optimizer, moment: int) -> None:
    tensors = [TrainedTensor.of_shape((1000, 100), 4), TrainedTensor.of_shape((99_999,), 4)]
    paged = memory(optimizer, tensors)
    absmax_and_books = 2 * (391 * 4) * 2 + 2048 if moment == 1 else 0
    assert paged.state_paged_bytes == 2 * moment * 100_000
    assert paged.state_bytes == 2 * moment * 99_999 + absmax_and_books
    on_cpu = memory(optimizer, tensors, "cpu")
    assert (on_cpu.state_paged_bytes, on_cpu.state_bytes) == (0, paged.state_bytes + paged.state_paged_bytes)


def test_adafactor_keeps_means_and_peaks_at_four_copies_of_the_largest_tensor() -> None:
    adafactor = memory("adafactor")
    means = 2 * (32000 + 4096) + 32 * sum(rows + columns for rows, columns in LAYER) + NORMS
    assert adafactor.state_bytes == 4 * (means + 32 * 9 + 3)
    # the embedding comes first and the head last, after a layer's down projection
    down = 4 * 4096 * 14336
    assert adafactor.step_peak_bytes == 4 * 4 * EMBEDDING + down
    assert memory("adafactor", [TrainedTensor.of_shape((3, 10, 20), 4)]).state_bytes == 4 * (30 + 60 + 1)


def test_cpu_adamw_works_through_the_tensors() -> None:
    tensors = [TrainedTensor.of_shape((n,), 4) for n in (100, 700, 500)]
    adamw = memory("adamw_torch", tensors, "cpu")
    assert adamw.state_bytes == 8 * 1300 + 3 * 4
    assert adamw.step_peak_bytes == 4 * (2 * 500 + 700)


def test_clipping_takes_one_norm_per_gradient_and_the_chunks_of_the_largest() -> None:
    tensors = [TrainedTensor.of_shape((65_537,), 2, count=3), TrainedTensor.of_shape((8,), 4)]
    assert memory("sgd", tensors).clip_peak_bytes == 4 * 3 * 2 + 3 * 2
    assert memory("sgd", tensors, "cpu").clip_peak_bytes == (3 * 2 + 4) + 4 * 4 + 4


def test_a_model_without_trained_tensors() -> None:
    assert memory("adamw_torch", []) == OptimizerMemory(0, 0, 0, 0, 0)


shapes = st.lists(st.integers(1, 400), min_size=1, max_size=3)
blocks = st.lists(
    st.builds(TrainedTensor.of_shape, shapes, st.sampled_from((2, 4)), decays=st.booleans(), embedding=st.booleans()),
    min_size=1,
    max_size=4,
)
models = st.lists(st.tuples(blocks, st.integers(1, 5)), min_size=1, max_size=3, unique_by=lambda block: block[1])


@given(models, st.sampled_from(OPTIMIZERS), st.sampled_from(("cuda", "cpu")))
def test_repeated_blocks_peak_as_written_out_and_as_their_events_say(
    model: list[tuple[list[TrainedTensor], int]], optimizer: Optimizer, device: str
) -> None:
    short = [replace(tensor, count=count) for block, count in model for tensor in block]
    written_out = [tensor for block, count in model for _ in range(count) for tensor in block]
    expected = memory(optimizer, written_out, device)
    assert memory(optimizer, short, device) == expected

    first, later = (step_timeline(optimizer, short, device=device, first_step=first_step) for first_step in (True, False))
    assert first.sizes == step_timeline(optimizer, written_out, device=device, first_step=True).sizes
    assert sum(first.sizes) == expected.state_bytes
    assert first.components_at(len(first) - 1) == ({"optimizer_state": expected.state_bytes} if expected.state_bytes else {})
    assert max(first.allocated()) == max(expected.clip_peak_bytes, expected.state_bytes + expected.first_step_peak_bytes)
    assert sum(later.sizes) == 0
    assert max(later.allocated()) == max(expected.clip_peak_bytes, expected.step_peak_bytes)


@given(models, st.sampled_from(OPTIMIZERS))
def test_every_storage_is_released_once_with_the_size_it_was_taken_with(
    model: list[tuple[list[TrainedTensor], int]], optimizer: Optimizer
) -> None:
    short = [replace(tensor, count=count) for block, count in model for tensor in block]
    timeline = step_timeline(optimizer, short, device="cuda", first_step=True)
    live: dict[int, int] = {}
    for storage, size, label in zip(timeline.storages, timeline.sizes, timeline.labels, strict=True):
        if size > 0:
            assert storage not in live
            live[storage] = size
        else:
            assert label == "workspace"
            assert live.pop(storage) == -size
    assert sum(live.values()) == optimizer_memory(optimizer, short, device="cuda").state_bytes
