"""The simulated caching allocator: PyTorch's rules one by one, and a naive second implementation."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.estimator.allocator import AllocatorOptions, Block, CachingAllocator, OutOfMemoryError

KIB, MIB = 1 << 10, 1 << 20
# around every boundary of the rules; few values, so that freed blocks fit again
SIZES = [
    1,
    511,
    512,
    513,
    200 * KIB,
    MIB - 512,
    MIB,
    MIB + 1,
    3 * MIB,
    9 * MIB,
    10 * MIB - 512,
    10 * MIB,
    11 * MIB + 5,
    19 * MIB,
    33 * MIB,
    64 * MIB,
]
# (size, None) takes a block, (None, n) frees the n-th live one, (None, None) empties the cache
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.one_of(st.sampled_from(SIZES), st.integers(1, 40 * MIB)), st.none()),
        st.tuples(st.none(), st.integers(0, 30)),
        st.tuples(st.none(), st.integers(0, 30)),
        st.just((None, None)),
    ),
    max_size=60,
)
OPTIONS = st.builds(
    AllocatorOptions,
    limit_bytes=st.one_of(st.none(), st.integers(0, 300 * MIB)),
    expandable_segments=st.booleans(),
    max_split_size_bytes=st.sampled_from([None, 21 * MIB, 32 * MIB]),
    roundup_power2_divisions=st.sampled_from([None, 4, 16]),
    garbage_collection_threshold=st.sampled_from([0.0, 0.5]),
)
Events = list[tuple[int | None, int | None]]


def run(allocator: CachingAllocator, events: Events) -> list[tuple[int, int, int]]:
    """(allocated, reserved, retries) after every event; allocations that fail are skipped. Checks the books on the way."""
    live: list[Block | None] = []
    seen = []
    for size, index in events:
        if size is not None:
            with contextlib.suppress(OutOfMemoryError):
                live.append(allocator.malloc(size))
        elif index is None:
            allocator.empty_cache()
        elif live:
            allocator.free(live.pop(index % len(live)))
        segments = list(allocator.segments())
        assert sum(segment.size_bytes for segment in segments) == allocator.reserved_bytes
        assert sum(segment.allocated_bytes for segment in segments) == allocator.allocated_bytes
        assert sum(block.size for block in live if block is not None) == allocator.allocated_bytes
        seen.append((allocator.allocated_bytes, allocator.reserved_bytes, allocator.retries))
    used = sorted((block.address, block.size) for block in live if block is not None)
    assert all(address + size <= following for (address, size), (following, _) in itertools.pairwise(used))
    for block in live:
        allocator.free(block)
    return seen


@pytest.mark.parametrize(
    ("request_bytes", "block_bytes", "segment_bytes"),
    [
        (1, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),
        (MIB + 1, MIB + 512, 20 * MIB),
        (10 * MIB - 512, 10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB, 10 * MIB),
        (10 * MIB + 1, 10 * MIB + 512, 12 * MIB),
        (33 * MIB, 34 * MIB, 34 * MIB),  # the rest stays with the block: it is not more than 1 MiB
        (32 * MIB + 1, 32 * MIB + 512, 34 * MIB),
    ],
)
def test_first_request_is_rounded_and_takes_a_segment(request_bytes: int, block_bytes: int, segment_bytes: int) -> None:
    allocator = CachingAllocator()
    block = allocator.malloc(request_bytes)
    assert block is not None
    assert (block.size, allocator.allocated_bytes, allocator.reserved_bytes) == (block_bytes, block_bytes, segment_bytes)


def test_nothing_takes_nothing() -> None:
    allocator = CachingAllocator()
    assert allocator.malloc(0) is None
    allocator.free(None)
    assert allocator.reserved_bytes == 0
    with pytest.raises(ValueError, match="-1 bytes"):
        allocator.malloc(-1)


def test_pools_do_not_share() -> None:
    allocator = CachingAllocator()
    allocator.free(allocator.malloc(64 * MIB))
    allocator.malloc(MIB)
    assert allocator.reserved_bytes == 66 * MIB


def test_best_fit_then_lowest_address() -> None:
    allocator = CachingAllocator()
    blocks = [allocator.malloc(size) for size in (64 * MIB, 32 * MIB, 32 * MIB)]
    addresses = [block.address for block in blocks if block is not None]
    for block in blocks:
        allocator.free(block)
    first, second, third = (allocator.malloc(30 * MIB) for _ in range(3))
    assert [block.address for block in (first, second, third) if block] == [addresses[1], addresses[2], addresses[0]]
    assert allocator.reserved_bytes == 128 * MIB


def test_rest_is_split_off_above_one_mib_in_the_large_pool() -> None:
    allocator = CachingAllocator()
    allocator.free(allocator.malloc(64 * MIB))
    whole = allocator.malloc(63 * MIB)
    assert whole is not None
    assert whole.size == 64 * MIB  # 1 MiB is left: not more than 1 MiB
    allocator.free(whole)
    part = allocator.malloc(63 * MIB - 512)
    assert part is not None
    assert part.size == 63 * MIB - 512


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 0, 2)])
def test_freed_neighbours_merge(order: tuple[int, ...]) -> None:
    allocator = CachingAllocator()
    blocks = [allocator.malloc(5 * MIB) for _ in range(3)]
    for index in order:
        allocator.free(blocks[index])
    assert allocator.malloc(20 * MIB - 512) is not None
    assert allocator.reserved_bytes == 20 * MIB


def test_blocks_of_different_segments_do_not_merge() -> None:
    allocator = CachingAllocator()
    for block in [allocator.malloc(20 * MIB) for _ in range(2)]:
        allocator.free(block)
    allocator.malloc(40 * MIB)
    assert allocator.reserved_bytes == 80 * MIB


def test_a_block_is_freed_once() -> None:
    allocator = CachingAllocator()
    block = allocator.malloc(8)
    allocator.free(block)
    with pytest.raises(ValueError, match="not allocated"):
        allocator.free(block)


def test_empty_cache_keeps_segments_in_use() -> None:
    allocator = CachingAllocator()
    keep, drop, large = allocator.malloc(3 * MIB), allocator.malloc(3 * MIB), allocator.malloc(40 * MIB)
    allocator.free(drop)
    allocator.free(large)
    allocator.empty_cache()
    assert (allocator.reserved_bytes, [segment.blocks for segment in allocator.segments()]) == (20 * MIB, [2])
    allocator.free(keep)
    allocator.empty_cache()
    assert (allocator.reserved_bytes, list(allocator.segments())) == (0, [])


def test_cache_goes_back_at_the_limit_and_then_memory_is_out() -> None:
    allocator = CachingAllocator(AllocatorOptions(limit_bytes=100 * MIB))
    allocator.free(allocator.malloc(60 * MIB))
    allocator.malloc(80 * MIB)
    assert (allocator.reserved_bytes, allocator.retries) == (80 * MIB, 1)
    with pytest.raises(OutOfMemoryError) as caught:
        allocator.malloc(30 * MIB)
    failure = caught.value.failure
    assert (failure.free_bytes, failure.allocated_bytes, failure.segment_bytes) == (20 * MIB, 80 * MIB, 30 * MIB)
    assert str(caught.value).startswith(
        "CUDA out of memory. Tried to allocate 30.00 MiB. GPU 0 has a total capacity of 100.00 MiB of which 20.00 MiB is free."
    )
    assert allocator.malloc(20 * MIB) is not None


def test_blocks_above_max_split_size_are_kept_whole() -> None:
    allocator = CachingAllocator(AllocatorOptions(max_split_size_bytes=50 * MIB))
    allocator.free(allocator.malloc(100 * MIB))
    allocator.malloc(40 * MIB)  # a small request may not break the large block
    assert allocator.reserved_bytes == 140 * MIB
    allocator.malloc(80 * MIB)  # nor may one that wastes 20 MiB
    assert allocator.reserved_bytes == 220 * MIB
    block = allocator.malloc(81 * MIB)
    assert block is not None
    assert (block.size, allocator.reserved_bytes) == (100 * MIB, 220 * MIB)


def test_oversize_blocks_go_back_first() -> None:
    allocator = CachingAllocator(AllocatorOptions(limit_bytes=200 * MIB, max_split_size_bytes=50 * MIB))
    for block in [allocator.malloc(size) for size in (60 * MIB, 90 * MIB, 40 * MIB)]:
        allocator.free(block)
    allocator.malloc(45 * MIB)  # 46 MiB of segment: the smallest oversize block, 60 MiB, goes back and that is enough
    assert (allocator.reserved_bytes, allocator.retries) == (176 * MIB, 0)


def test_roundup_power2_divisions() -> None:
    allocator = CachingAllocator(AllocatorOptions(roundup_power2_divisions=4))
    blocks = [allocator.malloc(size) for size in (1200, 2049, 5000, 8192, 9000)]
    assert [block.size for block in blocks if block is not None] == [1536, 2560, 5120, 8192, 10240]


def test_garbage_collection_releases_old_segments() -> None:
    allocator = CachingAllocator(AllocatorOptions(limit_bytes=100 * MIB, garbage_collection_threshold=0.5))
    allocator.free(allocator.malloc(60 * MIB))
    allocator.malloc(20 * MIB)
    assert allocator.reserved_bytes == 60 * MIB  # reused: nothing new was needed
    allocator.malloc(30 * MIB)
    allocator.free(allocator.malloc(12 * MIB))
    allocator.malloc(14 * MIB)  # 12 MiB, free and above the threshold, went back although there was no need
    assert (allocator.reserved_bytes, allocator.retries) == (60 * MIB + 14 * MIB, 0)


def test_expandable_segments_grow_by_pages_and_shrink() -> None:
    allocator = CachingAllocator(AllocatorOptions(expandable_segments=True))
    allocator.malloc(1)
    first = allocator.malloc(21 * MIB)
    assert allocator.reserved_bytes == 2 * MIB + 40 * MIB
    allocator.malloc(30 * MIB)  # 19 MiB are left at the end; one page more is enough
    assert allocator.reserved_bytes == 2 * MIB + 60 * MIB
    assert [segment.blocks for segment in allocator.segments()] == [3, 2]
    allocator.free(first)
    allocator.empty_cache()  # of the 21 free MiB one page is whole
    assert allocator.reserved_bytes == 2 * MIB + 40 * MIB
    allocator.malloc(15 * MIB)  # 1 and 9 MiB are free: the unmapped page, the lowest address with room, is mapped again
    assert allocator.reserved_bytes == 2 * MIB + 60 * MIB


def test_expandable_segments_at_the_limit() -> None:
    allocator = CachingAllocator(AllocatorOptions(limit_bytes=60 * MIB, expandable_segments=True))
    first = allocator.malloc(20 * MIB)
    allocator.malloc(20 * MIB)
    allocator.free(first)
    allocator.malloc(40 * MIB)  # 20 free at the bottom, 20 more to map: not in one piece, so the bottom page moves to the end
    assert (allocator.reserved_bytes, allocator.retries) == (60 * MIB, 1)


@pytest.mark.parametrize(
    "bad",
    [{"limit_bytes": -1}, {"max_split_size_bytes": 20 * MIB}, {"roundup_power2_divisions": 3}, {"garbage_collection_threshold": 1.0}],
)
def test_options_that_pytorch_refuses(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        AllocatorOptions(**bad)  # type: ignore[arg-type]


class Naive:
    """The default rules once more, slowly: segments as lists of [size, used], everything by scanning."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.segments: list[tuple[bool, list[list[int]]]] = []
        self.retries = 0

    def reserved(self) -> int:
        return sum(piece[0] for _, pieces in self.segments for piece in pieces)

    def allocated(self) -> int:
        return sum(piece[0] for _, pieces in self.segments for piece in pieces if piece[1])

    def empty_cache(self) -> None:
        self.segments = [(small, pieces) for small, pieces in self.segments if any(piece[1] for piece in pieces)]

    def malloc(self, size: int) -> list[int] | None:
        size = -(-size // 512) * 512
        small = size <= MIB
        fits = [
            (piece[0], number, position)
            for number, (pool, pieces) in enumerate(self.segments)
            for position, piece in enumerate(pieces)
            if pool == small and not piece[1] and piece[0] >= size
        ]
        if not fits:
            segment = 2 * MIB if small else 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
            if self.limit is not None and self.reserved() + segment > self.limit:
                self.empty_cache()
                self.retries += 1
                if self.reserved() + segment > self.limit:
                    return None
            self.segments.append((small, [[segment, 0]]))
            fits = [(segment, len(self.segments) - 1, 0)]
        _, number, position = min(fits)
        pieces = self.segments[number][1]
        piece = pieces[position]
        rest = piece[0] - size
        if rest >= 512 if small else rest > MIB:
            piece[0] = size
            pieces.insert(position + 1, [rest, 0])
        piece[1] = 1
        return piece

    def free(self, piece: list[int]) -> None:
        piece[1] = 0
        for _, pieces in self.segments:
            for position in range(len(pieces) - 1, 0, -1):
                if not pieces[position][1] and not pieces[position - 1][1]:
                    pieces[position - 1][0] += pieces.pop(position)[0]


@given(EVENTS, st.one_of(st.none(), st.integers(0, 200 * MIB)))
def test_agrees_with_the_naive_implementation(events: Events, limit: int | None) -> None:
    naive, live, expected = Naive(limit), [], []
    for size, index in events:
        if size is not None:
            piece = naive.malloc(size)
            if piece is not None:
                live.append(piece)
        elif index is None:
            naive.empty_cache()
        elif live:
            naive.free(live.pop(index % len(live)))
        expected.append((naive.allocated(), naive.reserved(), naive.retries))
    assert run(CachingAllocator(AllocatorOptions(limit_bytes=limit)), events) == expected


@given(EVENTS, OPTIONS)
def test_books_hold_and_everything_goes_back(events: Events, options: AllocatorOptions) -> None:
    allocator = CachingAllocator(options)
    for allocated, reserved, _ in run(allocator, events):
        assert allocated <= reserved
        assert options.limit_bytes is None or reserved <= options.limit_bytes
    assert allocator.allocated_bytes == 0
    allocator.empty_cache()
    assert (allocator.reserved_bytes, list(allocator.segments())) == (0, [])


@given(EVENTS, OPTIONS)
def test_a_limit_that_is_not_reached_changes_nothing(events: Events, options: AllocatorOptions) -> None:
    unlimited = dataclasses.replace(options, limit_bytes=None, garbage_collection_threshold=0.0)
    seen = run(CachingAllocator(unlimited), events)
    peak = max((reserved for _, reserved, _ in seen), default=0)
    assert run(CachingAllocator(dataclasses.replace(unlimited, limit_bytes=peak)), events) == seen


@given(st.lists(st.integers(MIB + 1, 40 * MIB), max_size=40))
def test_expandable_segments_waste_less_than_a_page_without_frees(sizes: list[int]) -> None:
    allocator = CachingAllocator(AllocatorOptions(expandable_segments=True))
    for size in sizes:
        allocator.malloc(size)
    assert allocator.reserved_bytes - allocator.allocated_bytes < 20 * MIB
    assert len(list(allocator.segments())) == (1 if sizes else 0)
