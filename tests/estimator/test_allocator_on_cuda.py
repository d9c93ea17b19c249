"""The simulated caching allocator beside the real one, where there is a GPU: the same bytes after every event."""

from __future__ import annotations

import random

import pytest

from ftadvise.estimator.allocator import AllocatorOptions, Block, CachingAllocator

MIB = 1 << 20
# small and large pool, split and whole
SIZES = [1, 512, 513, 200 << 10, MIB - 512, MIB, MIB + 1, 3 * MIB, 10 * MIB - 512, 10 * MIB, 11 * MIB + 5, 19 * MIB, 33 * MIB, 64 * MIB]


class Mirror(CachingAllocator):
    """Puts each new segment where the real allocator has just put its own: addresses decide between blocks of one size."""

    address = 0

    def segment_address(self, size: int) -> int:
        return self.address


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("settings", ["", "expandable_segments:True", "max_split_size_mb:32", "roundup_power2_divisions:4"])
def test_agrees_with_the_real_allocator(settings: str, seed: int) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    options = {
        "": AllocatorOptions(),
        "expandable_segments:True": AllocatorOptions(expandable_segments=True),
        "max_split_size_mb:32": AllocatorOptions(max_split_size_bytes=32 * MIB),
        "roundup_power2_divisions:4": AllocatorOptions(roundup_power2_divisions=4),
    }[settings]
    torch.cuda.init()
    torch.cuda.empty_cache()
    if torch.cuda.memory_reserved():
        pytest.skip("another test holds device memory")
    torch.cuda.memory._set_allocator_settings(settings or "expandable_segments:False")
    generator = random.Random(seed)  # noqa: S311
    mirror = Mirror(options)
    live: list[tuple[object, Block | None]] = []
    try:
        for _ in range(600):
            action = generator.random()
            if action < 0.02:
                torch.cuda.empty_cache()
                mirror.empty_cache()
            elif action < 0.55 or not live:
                size = generator.choice([*SIZES, generator.randrange(1, 80 * MIB)])
                tensor = torch.empty(size, dtype=torch.uint8, device="cuda")
                mirror.address = tensor.data_ptr()  # a new segment starts with the block that asked for it
                live.append((tensor, mirror.malloc(size)))
                del tensor
            else:
                tensor, block = live.pop(generator.randrange(len(live)))
                del tensor
                mirror.free(block)
            assert mirror.allocated_bytes == torch.cuda.memory_allocated()
            assert mirror.reserved_bytes == torch.cuda.memory_reserved()
    finally:
        live.clear()
        torch.cuda.empty_cache()
        torch.cuda.memory._set_allocator_settings("expandable_segments:False")
