"""Blocks of the simulated caching allocator and the pools that hold them. Bytes.

Source: Block and BlockPool in c10/cuda/CUDACachingAllocator.cpp of PyTorch, constants in c10/core/AllocatorConfig.h.
"""

from __future__ import annotations

from bisect import bisect_left, insort

ROUNDING_BYTES = 512  # kMinBlockSize
SMALL_BYTES = 1 << 20  # kSmallSize: the largest request of the small pool
SMALL_SEGMENT_BYTES = 2 << 20  # kSmallBuffer
LARGE_SEGMENT_BYTES = 20 << 20  # large_segment_size
ADDRESSES = (1 << 46) // (LARGE_SEGMENT_BYTES) * LARGE_SEGMENT_BYTES  # of an expandable range: whole pages, never used up
FREE, ALLOCATED, UNMAPPED = 0, 1, 2


class Block:
    """A piece of a segment: what `malloc` returns and `free` takes. `address` and `size` are in bytes, `size` as rounded."""

    __slots__ = ("address", "age", "next", "pool", "previous", "size", "state")

    def __init__(self, pool: BlockPool, address: int, size: int, state: int) -> None:
        self.pool = pool
        self.address = address
        self.size = size
        self.state = state
        self.previous: Block | None = None
        self.next: Block | None = None
        self.age = 0


class BlockPool:
    """Free blocks sorted by (size, address), the first block of each segment, and the unmapped ranges sorted by address."""

    __slots__ = ("base", "free", "heads", "min_remainder", "page", "searches", "small", "unmapped")

    def __init__(self, small: bool, expandable: bool) -> None:
        self.small = small
        self.page = SMALL_SEGMENT_BYTES if small else LARGE_SEGMENT_BYTES
        self.min_remainder = ROUNDING_BYTES if small or expandable else SMALL_BYTES + 1
        self.free: list[tuple[int, int, Block]] = []
        self.heads: dict[int, Block] = {}
        self.unmapped: list[tuple[int, Block]] = []
        self.searches = 0
        self.base = ADDRESSES * (2 if small else 4)
        if expandable:
            everything = Block(self, self.base, ADDRESSES, UNMAPPED)
            self.heads[self.base] = everything
            self.unmapped.append((self.base, everything))

    def remove(self, block: Block) -> None:
        """Take a block out of the free ones (or of the unmapped ones)."""
        if block.state == UNMAPPED:
            del self.unmapped[bisect_left(self.unmapped, (block.address,))]
        else:
            del self.free[bisect_left(self.free, (block.size, block.address))]

    def insert(self, block: Block) -> None:
        """Merge a block with its neighbours of the same state (free or unmapped) and list it."""
        state, previous, following = block.state, block.previous, block.next
        if previous is not None and previous.state == state:
            self.remove(previous)
            previous.size += block.size
            previous.next = following
            if following is not None:
                following.previous = previous
            block = previous
        if following is not None and following.state == state:
            self.remove(following)
            block.size += following.size
            block.next = following.next
            if following.next is not None:
                following.next.previous = block
        if state == UNMAPPED:
            insort(self.unmapped, (block.address, block))
        else:
            block.age = self.searches
            insort(self.free, (block.size, block.address, block))

    def split(self, block: Block, size: int) -> Block:
        """Shorten a block to `size`; the rest, not listed yet, is returned."""
        rest = Block(self, block.address + size, block.size - size, block.state)
        block.size = size
        rest.previous, rest.next = block, block.next
        if rest.next is not None:
            rest.next.previous = rest
        block.next = rest
        return rest
