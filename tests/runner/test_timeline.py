"""Memory over time: bounded however long the run, no peak lost, whole over several attempts."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.runner.thinned import Thinned
from ftadvise.runner.timeline_points import MAX_POINTS, Point, higher, join_timelines, read_timeline

SIZES = st.none() | st.integers(0, 1 << 40)


@given(st.integers(2, 9), st.lists(st.integers(-5, 5), max_size=200))
def test_a_thinned_series_keeps_its_sum_its_order_and_its_limit(limit: int, values: list[int]) -> None:
    thinned: Thinned[tuple[int, int, int]] = Thinned(limit, lambda a, b: (a[0], b[1], a[2] + b[2]))
    for index, value in enumerate(values):
        thinned.append((index, index, value))
    points = thinned.points
    assert len(points) <= limit
    assert len(points) >= min(len(values), limit // 2)
    assert sum(point[2] for point in points) == sum(values)
    assert [first for first, _, _ in points[1:]] == [last + 1 for _, last, _ in points[:-1]]
    assert (points[0][0], points[-1][1]) == (0, len(values) - 1) if values else points == ()
    strides = [last - first + 1 for first, last, _ in points[:-1]]
    assert len(set(strides)) <= 1  # evenly: only the last point may still be filling


def test_a_limit_must_leave_something() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        Thinned(1, max)


@given(st.lists(SIZES, min_size=1, max_size=60))
def test_thinning_a_timeline_loses_no_peak(sizes: list[int | None]) -> None:
    thinned: Thinned[Point] = Thinned(8, higher)
    for step, size in enumerate(sizes):
        thinned.append((step, float(step), size))
    known = [size for size in sizes if size is not None]
    assert max((size for _, _, size in thinned.points if size is not None), default=None) == max(known, default=None)
    assert thinned.points[-1][:2] == (len(sizes) - 1, float(len(sizes) - 1))


def test_attempts_join_into_one_timeline() -> None:
    first = [(0, 0.0, 5), (1, 1.0, 7), (2, 2.0, 8), (3, 3.0, 8)]
    second = [(2, 0.0, 4), (3, 1.5, 6), (4, 3.0, 6)]  # from the checkpoint of step 2
    assert join_timelines([first, [], second]) == ((0, 0.0, 5), (1, 1.0, 7), (2, 1.0, 4), (3, 2.5, 6), (4, 4.0, 6))
    assert join_timelines([first]) == tuple(first)
    assert join_timelines([]) == ()


@given(st.lists(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1e6), SIZES), max_size=20), max_size=5))
def test_a_joined_timeline_never_goes_back(timelines: list[list[Point]]) -> None:
    ordered = [sorted(timeline, key=lambda point: point[:2]) for timeline in timelines]
    for timeline in ordered:
        for index in range(1, len(timeline)):
            timeline[index] = (timeline[index][0], max(timeline[index][1], timeline[index - 1][1]), timeline[index][2])
    joined = join_timelines(ordered)
    assert [point[0] for point in joined] == sorted(point[0] for point in joined)
    assert [point[1] for point in joined] == sorted(point[1] for point in joined)


@pytest.mark.parametrize("content", ["", "{}", "[1]", "[[1, 2]]", '[[1, "x", 3]]', "[" * 100_000])
def test_a_broken_timeline_is_none(tmp_path: Path, content: str) -> None:
    file = tmp_path / "timeline.json"
    assert read_timeline(file) == ()
    file.write_text(content)
    assert read_timeline(file) == ()


def _state(step: int) -> Any:
    return SimpleNamespace(global_step=step)


def test_the_recorder_on_the_cpu_writes_what_it_saw(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from ftadvise.runner.timeline import TimelineRecorder

    file = tmp_path / "timeline.json"
    recorder = TimelineRecorder("cpu", file=file)
    recorder.on_train_begin(None, _state(4), None)
    recorder.on_step_end(None, _state(5), None)
    assert not file.exists()
    recorder.on_save(None, _state(5), None)
    assert read_timeline(file) == recorder.points
    recorder.on_evaluate(None, _state(5), None)
    recorder.on_train_end(None, _state(5), None)
    assert [step for step, _, _ in read_timeline(file)] == [4, 5, 5]
    seconds, sizes = [point[1] for point in recorder.points], [point[2] for point in recorder.points]
    assert seconds == sorted(seconds)
    assert all(size is not None and size > 10 << 20 for size in sizes)
    assert recorder.bytes_in_use == sizes[-1]
    peak = recorder.training_peak(allocated_bytes=1, reserved_bytes=None)
    assert peak["allocated_bytes"] is peak["reserved_bytes"] is None
    assert peak["device_used_bytes"] is not None
    assert peak["device_used_bytes"] >= max(size or 0 for size in sizes) * 0.5
    assert len(json.loads(file.read_text())) == 3


def test_the_recorder_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    from ftadvise.runner import timeline

    monkeypatch.setattr(timeline.psutil, "Process", lambda: SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=7)))
    recorder = timeline.TimelineRecorder("cpu")
    for step in range(3 * MAX_POINTS):
        recorder.on_step_end(None, _state(step), None)
    assert MAX_POINTS // 2 <= len(recorder.points) <= MAX_POINTS
    assert recorder.points[-1][0] == 3 * MAX_POINTS - 1


def test_the_recorder_on_a_gpu_adds_what_the_allocator_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    from ftadvise.runner import timeline

    reserved, allocated = iter([100, 300, 200]), iter([90, 250, 150])
    monkeypatch.setattr(timeline.torch.cuda, "max_memory_reserved", lambda: next(reserved))
    monkeypatch.setattr(timeline.torch.cuda, "max_memory_allocated", lambda: next(allocated))
    monkeypatch.setattr(timeline.torch.cuda, "memory_reserved", lambda: 100)
    asked: list[int] = []

    def ask() -> tuple[int | None, str | None]:
        asked.append(1)
        return 140, None

    monkeypatch.setattr(timeline, "nvml_process_bytes", ask)
    recorder = timeline.TimelineRecorder("cuda")
    for step in range(3):
        recorder.on_step_end(None, _state(step), None)
    assert [size for _, _, size in recorder.points] == [140, 340, 240]
    assert len(asked) == 1  # it costs milliseconds: not at every step
    assert recorder.training_peak(allocated_bytes=260, reserved_bytes=290) == {
        "allocated_bytes": 260,
        "reserved_bytes": 300,
        "device_used_bytes": 340,
    }


def test_the_recorder_on_a_gpu_without_nvml_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    from ftadvise.runner import timeline

    for name in ("max_memory_reserved", "max_memory_allocated", "memory_reserved"):
        monkeypatch.setattr(timeline.torch.cuda, name, lambda: 100)
    monkeypatch.setattr(timeline, "nvml_process_bytes", lambda: (None, "NVML did not answer"))
    recorder = timeline.TimelineRecorder("cuda")
    recorder.on_step_end(None, _state(1), None)
    assert recorder.points[0][2] is None
    assert recorder.training_peak()["device_used_bytes"] is None
    assert recorder.training_peak()["reserved_bytes"] == 100
