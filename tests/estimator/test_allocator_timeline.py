"""A timeline of storages through the simulated allocator: peaks by phase, where memory is out, timelines that make no sense."""

from __future__ import annotations

import pytest

from ftadvise.estimator.allocator import AllocatorOptions, simulate
from ftadvise.estimator.timeline import Timeline

MIB = 1 << 20


def timeline(*events: tuple[int, int, str]) -> Timeline:
    result = Timeline()
    for storage, size, phase in events:
        result.append(storage, size, label="activations", operation="", module="", phase=phase)
    return result


def test_simulate_reports_phases_and_peaks() -> None:
    result = simulate(
        timeline(
            (0, 60 * MIB, "load"), (1, 30 * MIB, "forward"), (1, -30 * MIB, "backward"), (2, 10 * MIB, "backward"), (0, -60 * MIB, "load")
        )
    )
    assert (result.peak_allocated_bytes, result.peak_reserved_bytes, result.retries) == (90 * MIB, 90 * MIB, 0)
    assert result.allocated_by_phase == {"load": 70 * MIB, "forward": 90 * MIB, "backward": 90 * MIB}
    assert result.reserved_by_phase == {"load": 90 * MIB, "forward": 90 * MIB, "backward": 90 * MIB}
    assert (result.out_of_memory, [segment.size_bytes for segment in result.segments]) == (None, [60 * MIB, 30 * MIB])


def test_simulate_empties_the_cache_when_told() -> None:
    events = timeline((0, 60 * MIB, "load"), (0, -60 * MIB, "load"), (1, 70 * MIB, "forward"))
    assert simulate(events).peak_reserved_bytes == 130 * MIB
    assert simulate(events, empty_cache_after={1}).peak_reserved_bytes == 70 * MIB


def test_simulate_stops_where_memory_is_out() -> None:
    events = timeline((0, 60 * MIB, "load"), (1, 30 * MIB, "forward"), (2, 8, "forward"))
    result = simulate(events, AllocatorOptions(limit_bytes=80 * MIB))
    assert result.out_of_memory is not None
    assert (result.out_of_memory.event, result.out_of_memory.requested_bytes, result.out_of_memory.free_bytes) == (1, 30 * MIB, 20 * MIB)
    assert (result.peak_reserved_bytes, result.retries) == (60 * MIB, 1)


def test_simulate_of_nothing() -> None:
    assert simulate(Timeline()).peak_reserved_bytes == 0


@pytest.mark.parametrize("events", [((0, -8, "load"),), ((0, 8, "load"), (0, 8, "load"))])
def test_simulate_refuses_a_timeline_that_makes_no_sense(events: tuple[tuple[int, int, str], ...]) -> None:
    with pytest.raises(ValueError, match="storage 0"):
        simulate(timeline(*events))
