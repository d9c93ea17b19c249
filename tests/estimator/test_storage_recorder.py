"""The storage recorder on small tensor programs whose bytes can be counted by hand."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from ftadvise.estimator.storage_recorder import StorageRecorder, recording  # noqa: E402 - needs torch

KIB = 256  # fp32 elements


def test_creation_and_release_are_counted() -> None:
    with recording(StorageRecorder("cpu")) as recorder:
        first = torch.zeros(KIB)
        second = torch.ones(2 * KIB)
        assert recorder.current_bytes == 3 * 1024
        del second
        assert recorder.current_bytes == 1024
        del first
    assert recorder.current_bytes == 0
    assert recorder.peaks()["load"].total_bytes == 3 * 1024


def test_views_are_not_counted_and_keep_their_storage_alive() -> None:
    with recording(StorageRecorder("cpu")) as recorder:
        base = torch.zeros(4, KIB)
        view = base[1:].t()
        other = base.view(-1)
        assert recorder.current_bytes == 4 * 1024
        del base, other
        assert recorder.current_bytes == 4 * 1024
        del view
        assert recorder.current_bytes == 0


def test_in_place_work_takes_nothing_and_temporaries_show_in_the_peak() -> None:
    with recording(StorageRecorder("cpu")) as recorder:
        tensor = torch.zeros(KIB)
        tensor.add_(1).mul_(2)
        assert recorder.peaks()["load"].total_bytes == 1024
        tensor = tensor + tensor * 3
        assert recorder.current_bytes == 1024
    assert recorder.peaks()["load"].total_bytes == 3 * 1024
    assert recorder.peaks()["load"].operation == "aten.add.Tensor"


def test_a_storage_resized_in_place_is_counted_at_its_new_size() -> None:
    with recording(StorageRecorder("cpu")) as recorder:
        tensor = torch.zeros(KIB)
        tensor.resize_(4 * KIB)
        assert recorder.current_bytes == 4 * 1024
        tensor.untyped_storage().resize_(0)
        tensor.set_()
        del tensor
    assert recorder.current_bytes == 0


def test_phases_and_labels_are_those_of_the_moment_of_creation() -> None:
    recorder = StorageRecorder("cpu")
    with recording(recorder):
        recorder.phase, recorder.label = "forward", "activations"
        kept = torch.zeros(2 * KIB)
        recorder.phase, recorder.label = "backward", "loss"
        loss = torch.zeros(KIB)
        del kept, loss
    peaks = recorder.peaks()
    assert peaks["forward"].by_label == {"activations": 2048}
    assert peaks["backward"].by_label == {"activations": 2048, "loss": 1024}
    assert peaks["backward"].total_bytes == sum(peaks["backward"].by_label.values())
    assert set(recorder.peaks_by_label()) == {("forward", "activations"), ("backward", "loss")}


def test_a_label_learned_later_is_the_label_of_earlier_moments_too() -> None:
    recorder = StorageRecorder("cpu")
    weight = torch.zeros(KIB, requires_grad=True)
    recorder.adopt([weight], "weights")
    with recording(recorder):
        recorder.phase = "backward"
        (weight * 2).sum().backward()
        assert weight.grad is not None
        recorder.adopt([weight.grad], "gradients")
    peak = recorder.peaks()["backward"].by_label
    assert peak["weights"] == 1024
    assert peak["gradients"] == 1024


def test_adopting_twice_counts_once() -> None:
    recorder = StorageRecorder("cpu")
    weight = torch.zeros(KIB)
    recorder.adopt([weight, weight.view(2, -1)], "weights")
    recorder.adopt([weight], "weights")
    assert recorder.current_bytes == 1024


def test_other_devices_are_not_counted() -> None:
    with recording(StorageRecorder("cpu")) as recorder:
        meta = torch.zeros(KIB, device="meta")
        assert recorder.current_bytes == 0
    with recording(StorageRecorder("meta")) as recorder:
        meta = meta + 1
        here = torch.zeros(KIB)
        assert recorder.current_bytes == 1024
    assert here.numel() == meta.numel()


def test_what_was_alive_at_a_peak_is_listed_largest_first() -> None:
    recorder = StorageRecorder("cpu")
    with recording(recorder):
        small = torch.zeros(KIB)
        gone = torch.zeros(8 * KIB)
        del gone
        recorder.phase = "forward"
        large = torch.ones(3 * KIB)
        del small, large
    live = recorder.live_at_peak("forward", "activations")
    assert live == [("activations", "aten.ones.default", 3072), ("activations", "aten.zeros.default", 1024)]


def test_a_checkpointed_step_holds_less_than_a_plain_one() -> None:
    from torch.utils.checkpoint import checkpoint

    def peak(*, checkpointed: bool) -> int:
        layers = [torch.nn.Linear(16, 16) for _ in range(8)]
        x = torch.ones(256, 16, requires_grad=True)
        with recording(StorageRecorder("cpu")) as recorder:
            out = x
            for layer in layers:
                step = torch.nn.Sequential(layer, torch.nn.SiLU(), torch.nn.SiLU(), torch.nn.SiLU())
                out = checkpoint(step, out, use_reentrant=False) if checkpointed else step(out)
            out.sum().backward()
        return recorder.peaks()["load"].total_bytes

    assert peak(checkpointed=True) < peak(checkpointed=False) / 2
