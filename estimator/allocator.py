"""What a Timeline reserves on the device: its events replayed through the simulated CUDA caching allocator. Bytes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from ftadvise.estimator.block_pool import Block
from ftadvise.estimator.caching_allocator import AllocatorOptions, CachingAllocator, OutOfMemory, OutOfMemoryError, Segment
from ftadvise.estimator.timeline import Timeline

__all__ = ["AllocatorOptions", "AllocatorResult", "Block", "CachingAllocator", "OutOfMemory", "OutOfMemoryError", "Segment", "simulate"]


@dataclass(frozen=True, slots=True)
class AllocatorResult:
    """What a timeline needed. After an OutOfMemory the figures are those up to the failure.

    `peak_allocated_bytes` and `peak_reserved_bytes`: torch.cuda.max_memory_allocated() and max_memory_reserved(); the same by phase.
    `retries`: how often the cache was given back to make room (each costs a synchronisation).
    """

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    allocated_by_phase: dict[str, int]
    reserved_by_phase: dict[str, int]
    retries: int
    out_of_memory: OutOfMemory | None
    segments: tuple[Segment, ...]


def simulate(
    timeline: Timeline, options: AllocatorOptions | None = None, *, empty_cache_after: Collection[int] = frozenset()
) -> AllocatorResult:
    """Replay a timeline. `empty_cache_after`: indices of the events after which the program calls torch.cuda.empty_cache().

    Raises: ValueError when a storage is taken twice or released without having been taken.
    """
    allocator = CachingAllocator(options)
    malloc, free = allocator.malloc, allocator.free
    live: dict[int, Block | None] = {}
    allocated: dict[str, int] = {}
    reserved: dict[str, int] = {}
    failure: OutOfMemory | None = None
    current = timeline.phases[0] if timeline.phases else ""

    def close_phase() -> None:
        allocated[current] = max(allocated.get(current, 0), allocator.peak_allocated_bytes)
        reserved[current] = max(reserved.get(current, 0), allocator.peak_reserved_bytes)
        allocator.reset_peaks()

    for index, (storage, size, phase) in enumerate(zip(timeline.storages, timeline.sizes, timeline.phases, strict=True)):
        if phase != current:
            close_phase()
            current = phase
        if size < 0:
            if storage not in live:
                raise ValueError(f"event {index} releases storage {storage}, which is not held")
            free(live.pop(storage))
        else:
            if storage in live:
                raise ValueError(f"event {index} takes storage {storage}, which is held already")
            try:
                live[storage] = malloc(size)
            except OutOfMemoryError as error:
                failure = replace(error.failure, event=index)
                break
        if index in empty_cache_after:
            allocator.empty_cache()
    close_phase()
    return AllocatorResult(
        max(allocated.values()), max(reserved.values()), allocated, reserved, allocator.retries, failure, tuple(allocator.segments())
    )
