"""The rules of PyTorch's CUDA caching allocator, event by event. Bytes.

Source: c10/cuda/CUDACachingAllocator.cpp of PyTorch, read at 2.3 and at about 2.6; constants as in c10/core/AllocatorConfig.h of 2.13.
Requests are rounded to 512 bytes. Up to 1 MiB they live in the small pool (segments of 2 MiB), else in the large one: below 10 MiB in
segments of 20 MiB, above in segments rounded to 2 MiB. The smallest free block that fits is taken, of equal ones the lowest address; what
is left over becomes a block of its own; freed blocks merge with free neighbours of their segment. At the limit all free segments go back
and the allocation is tried again. With expandable segments each pool is one range of addresses that grows by pages of 2 MiB (small) or 20
MiB.

Left out: streams other than the default one (they have pools of their own, and a block used on two streams comes back late), pools of CUDA
graphs. Assumed: a new segment gets a higher address than the earlier ones; the driver does not promise it, and it decides only between
free blocks of one size in different segments. An expandable range never runs out of addresses (PyTorch: 1.125 times the card's memory).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass

from ftadvise.estimator.block_pool import (
    ADDRESSES,
    ALLOCATED,
    FREE,
    LARGE_SEGMENT_BYTES,
    ROUNDING_BYTES,
    SMALL_BYTES,
    SMALL_SEGMENT_BYTES,
    UNMAPPED,
    Block,
    BlockPool,
)

_OWN_SEGMENT = 10 << 20  # kMinLargeAlloc: from here a request gets a segment of its own size
_LARGE_ROUNDING = 2 << 20  # kRoundLarge
_UNLIMITED = 1 << 62


@dataclass(frozen=True, slots=True)
class AllocatorOptions:
    """What the device allows and what PYTORCH_CUDA_ALLOC_CONF says; the defaults are PyTorch's.

    `limit_bytes`: what the process can take from the device in segments: free memory without the context. None: no limit.
    `max_split_size_bytes`: larger blocks are never split (PyTorch asks for more than 20 MiB). `roundup_power2_divisions`: sizes are
    rounded up to one of so many steps between powers of two (a power of two, at least 2). `garbage_collection_threshold`: share of the
    limit from which old free segments are released before new ones are taken (PyTorch does it only under a set memory fraction).

    Raises: ValueError for values that PyTorch refuses.
    """

    limit_bytes: int | None = None
    expandable_segments: bool = False
    max_split_size_bytes: int | None = None
    roundup_power2_divisions: int | None = None
    garbage_collection_threshold: float = 0.0

    def __post_init__(self) -> None:
        if self.limit_bytes is not None and self.limit_bytes < 0:
            raise ValueError(f"limit_bytes is {self.limit_bytes}: a limit is not negative")
        if self.max_split_size_bytes is not None and self.max_split_size_bytes <= LARGE_SEGMENT_BYTES:
            raise ValueError(f"max_split_size_bytes is {self.max_split_size_bytes}: PyTorch wants more than {LARGE_SEGMENT_BYTES}")
        divisions = self.roundup_power2_divisions
        if divisions is not None and (divisions < 2 or divisions & (divisions - 1)):
            raise ValueError(f"roundup_power2_divisions is {divisions}: PyTorch wants a power of two above 1")
        if not 0.0 <= self.garbage_collection_threshold < 1.0:
            raise ValueError(f"garbage_collection_threshold is {self.garbage_collection_threshold}: PyTorch wants a share below 1")


@dataclass(frozen=True, slots=True)
class Segment:
    """One range of device memory held by the allocator. `allocated_bytes`: in use. `blocks`: used and free pieces."""

    size_bytes: int
    allocated_bytes: int
    blocks: int
    small: bool


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """An allocation that failed although all free segments had gone back.

    `event`: its index in the timeline, -1 outside of one. `segment_bytes`: what was asked of the device.
    """

    event: int
    requested_bytes: int
    segment_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    limit_bytes: int

    @property
    def free_bytes(self) -> int:
        """What the device had left."""
        return self.limit_bytes - self.reserved_bytes

    @property
    def message(self) -> str:
        """PyTorch's words (the limit stands for the card's capacity, which the allocator does not know)."""
        return (
            f"CUDA out of memory. Tried to allocate {_size_text(self.segment_bytes)}. GPU 0 has a total capacity of "
            f"{_size_text(self.limit_bytes)} of which {_size_text(self.free_bytes)} is free. Of the allocated memory "
            f"{_size_text(self.allocated_bytes)} is allocated by PyTorch, and {_size_text(self.reserved_bytes - self.allocated_bytes)} "
            "is reserved by PyTorch but unallocated."
        )


class OutOfMemoryError(Exception):
    """Raised by `CachingAllocator.malloc`; `failure` says what was asked for."""

    def __init__(self, failure: OutOfMemory) -> None:
        super().__init__(failure.message)
        self.failure = failure


class CachingAllocator:
    """The allocator of one device, event by event; the counters are torch.cuda.memory_stats' of the same name.

    `allocated_bytes`, `reserved_bytes`, their peaks since `reset_peaks`, `retries` (num_alloc_retries).
    """

    def __init__(self, options: AllocatorOptions | None = None) -> None:
        options = options or AllocatorOptions()
        self.options = options
        self.allocated_bytes = self.reserved_bytes = 0
        self.peak_allocated_bytes = self.peak_reserved_bytes = 0
        self.retries = 0
        self._limit = _UNLIMITED if options.limit_bytes is None else options.limit_bytes
        self._max_split = options.max_split_size_bytes or _UNLIMITED
        self._expandable = options.expandable_segments
        self._divisions = options.roundup_power2_divisions or 0
        self._collect_above = int(options.garbage_collection_threshold * self._limit) if options.garbage_collection_threshold else 0
        self._small, self._large = BlockPool(True, self._expandable), BlockPool(False, self._expandable)
        # searching the whole free list is one bisection, except where a rule below can refuse what it finds
        self._plain = not self._expandable and self._max_split == _UNLIMITED and not self._collect_above
        self._next_address = ADDRESSES

    def malloc(self, size: int) -> Block | None:
        """A block of at least `size` bytes; None for nothing. Raises: OutOfMemoryError, ValueError for a negative size."""
        if size <= 0:
            if size < 0:
                raise ValueError(f"cannot allocate {size} bytes")
            return None
        requested = size
        size = self._round(size) if self._divisions else (size + ROUNDING_BYTES - 1) & -ROUNDING_BYTES
        pool = self._small if size <= SMALL_BYTES else self._large
        free = pool.free
        index = bisect_left(free, (size,)) if self._plain else self._search(pool, size)
        block = free.pop(index)[2] if index < len(free) else self._new_block(pool, size, requested)
        block.state = ALLOCATED
        if block.size - size >= pool.min_remainder and (size < self._max_split or pool.small or self._expandable):
            rest = pool.split(block, size)
            rest.state = FREE
            rest.age = pool.searches
            insort(free, (rest.size, rest.address, rest))
        self.allocated_bytes += block.size
        if self.allocated_bytes > self.peak_allocated_bytes:
            self.peak_allocated_bytes = self.allocated_bytes
        return block

    def free(self, block: Block | None) -> None:
        """Give a block back to its pool. Raises: ValueError for a block that is not allocated."""
        if block is None:
            return
        if block.state != ALLOCATED:
            raise ValueError(f"the block at {block.address:#x} is not allocated")
        self.allocated_bytes -= block.size
        block.state = FREE
        block.pool.insert(block)

    def empty_cache(self) -> None:
        """torch.cuda.empty_cache(): segments (expandable: pages) without a used block go back to the device."""
        for pool in (self._large, self._small):
            for _, _, block in list(pool.free):
                if self._expandable:
                    self._unmap(pool, block)
                elif block.previous is None and block.next is None:
                    self._release(pool, block)

    def reset_peaks(self) -> None:
        """torch.cuda.reset_peak_memory_stats()."""
        self.peak_allocated_bytes, self.peak_reserved_bytes = self.allocated_bytes, self.reserved_bytes

    def segments(self) -> Iterator[Segment]:
        """What is held now, in the order of addresses: one for each segment, or each mapped range of an expandable one."""
        for pool in (self._large, self._small):
            for _, head in sorted(pool.heads.items()):
                block: Block | None = head
                while block is not None:
                    size = used = count = 0
                    while block is not None and block.state != UNMAPPED:
                        size, count = size + block.size, count + 1
                        used += block.size if block.state == ALLOCATED else 0
                        block = block.next
                    if count:
                        yield Segment(size, used, count, pool.small)
                    block = block and block.next

    def segment_address(self, size: int) -> int:
        """Where the driver puts a new segment of `size` bytes: each above the last."""
        address = self._next_address
        self._next_address += size
        return address

    def _round(self, size: int) -> int:
        if size <= ROUNDING_BYTES * self._divisions:
            return (size + ROUNDING_BYTES - 1) & -ROUNDING_BYTES
        step = (1 << (size.bit_length() - 1)) // self._divisions
        return -(-size // step) * step

    def _search(self, pool: BlockPool, size: int) -> int:
        """get_free_block: index of the free block to take; the length of the list when there is none."""
        free, nothing = pool.free, len(pool.free)
        pool.searches += 1 if self._collect_above else 0
        index = bisect_left(free, (size,))
        if index == nothing:
            return nothing
        if self._expandable:  # a block that can grow counts as large as it can get
            while index + 1 < nothing and _expandable_size(free[index + 1][2]) < _expandable_size(free[index][2]):
                index += 1
        found = free[index][0]
        if size < self._max_split <= found or (size >= self._max_split and found >= size + LARGE_SEGMENT_BYTES):
            return nothing
        return index

    def _new_block(self, pool: BlockPool, size: int, requested: int) -> Block:
        """A block from the device: take, or release the oversize blocks and take, or release all and take."""
        segment = _segment_bytes(size)
        if self._collect_above:
            self._collect_garbage()
        block = self._take(pool, size, segment)
        if block is None and self._release_oversize(pool, size):
            block = self._take(pool, size, segment)
        if block is None:
            self.empty_cache()
            self.retries += 1
            block = self._take(pool, size, segment)
        if block is None:
            raise OutOfMemoryError(OutOfMemory(-1, requested, segment, self.allocated_bytes, self.reserved_bytes, self._limit))
        return block

    def _take(self, pool: BlockPool, size: int, segment: int) -> Block | None:
        """alloc_block: a new segment, or new pages of the expandable one; None at the limit."""
        if self._expandable:
            return self._expand(pool, size)
        if self.reserved_bytes + segment > self._limit:
            return None
        block = Block(pool, self.segment_address(segment), segment, FREE)
        pool.heads[block.address] = block
        self._reserve(segment)
        return block

    def _reserve(self, size: int) -> None:
        self.reserved_bytes += size
        if self.reserved_bytes > self.peak_reserved_bytes:
            self.peak_reserved_bytes = self.reserved_bytes

    def _release(self, pool: BlockPool, block: Block) -> None:
        pool.remove(block)
        del pool.heads[block.address]
        self.reserved_bytes -= block.size

    def _release_oversize(self, pool: BlockPool, size: int) -> bool:
        """release_available_cached_blocks: with a split limit, release one free block that is large enough, or several."""
        if self._max_split == _UNLIMITED or self._expandable:
            return False
        wanted = max(size, self._max_split)
        index = bisect_left(pool.free, (wanted,))
        if index < len(pool.free):
            self._release(pool, pool.free[index][2])
            return True
        released = 0
        while released < wanted and pool.free and pool.free[-1][0] >= self._max_split:
            released += pool.free[-1][0]
            self._release(pool, pool.free[-1][2])
        return released >= wanted

    def _collect_garbage(self) -> None:
        """garbage_collect_cached_blocks: above the threshold, release free segments of the large pool older than their mean age."""
        pool, target = self._large, self.reserved_bytes - self._collect_above
        old = [block for _, _, block in pool.free if block.previous is None and block.next is None and not self._expandable]
        total = sum(pool.searches - block.age for block in old)
        while target > 0 and old:
            mean = total / len(old)
            for block in [block for block in old if pool.searches - block.age >= mean]:
                old.remove(block)
                total -= pool.searches - block.age
                target -= block.size
                self._release(pool, block)

    def _expand(self, pool: BlockPool, size: int) -> Block | None:
        """try_allocate_expandable_block: map pages at the lowest address where free and unmapped neighbours have room for `size`."""
        block = _expandable_candidate(pool, size)
        while block.state == UNMAPPED or block.size < size:
            gap, missing = (block, size) if block.state == UNMAPPED else (block.next, size - block.size)
            if gap is None:
                raise AssertionError("the candidate's neighbours have room")
            pages = min(-(-missing // pool.page) * pool.page, gap.size)
            if self.reserved_bytes + pages > self._limit:
                return None
            pool.remove(gap)
            rest = pool.split(gap, pages) if pages < gap.size else None
            gap.state = FREE
            if rest is not None:
                pool.insert(rest)
            pool.insert(gap)
            self._reserve(pages)
        pool.remove(block)
        return block

    def _unmap(self, pool: BlockPool, block: Block) -> None:
        """unmap_block: give the whole pages inside a free block back."""
        start = pool.base + -(-(block.address - pool.base) // pool.page) * pool.page
        end = pool.base + (block.address + block.size - pool.base) // pool.page * pool.page
        if start >= end:
            return
        pool.remove(block)
        if end < block.address + block.size:
            after = pool.split(block, end - block.address)
            insort(pool.free, (after.size, after.address, after))
        if start > block.address:
            inside = pool.split(block, start - block.address)
            insort(pool.free, (block.size, block.address, block))
            block = inside
        self.reserved_bytes -= block.size
        block.state = UNMAPPED
        pool.insert(block)


def _segment_bytes(size: int) -> int:
    if size <= SMALL_BYTES:
        return SMALL_SEGMENT_BYTES
    if size < _OWN_SEGMENT:
        return LARGE_SEGMENT_BYTES
    return -(-size // _LARGE_ROUNDING) * _LARGE_ROUNDING


def _expandable_size(block: Block) -> int:
    following = block.next
    return block.size + (following.size if following is not None and following.state == UNMAPPED else 0)


def _expandable_candidate(pool: BlockPool, size: int) -> Block:
    """find_expandable_block: the lowest free or unmapped block that, with the free and unmapped ones after it, has room for `size`."""
    for _, block in pool.unmapped:
        start = block.previous if block.previous is not None and block.previous.state == FREE else block
        room, reach = 0, start
        while room < size and reach is not None and reach.state != ALLOCATED:
            room += reach.size
            reach = reach.next  # type: ignore[assignment]
        if room >= size:
            return start
    raise AssertionError("the range of addresses is larger than any device")


def _size_text(size: int) -> str:
    """format_size of CUDACachingAllocator.cpp."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size > unit:
            return f"{size / unit:.2f} {name}"
    return f"{size} bytes"
