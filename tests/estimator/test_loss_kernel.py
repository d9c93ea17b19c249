"""How many tokens' logits a loss kernel has at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.estimator.loss_kernel import LossKernel
from ftadvise.estimator.stack import stack_names, stack_of

LIGER = LossKernel(kind="chunks_in_forward")
KERNELS = sorted({kernel for name in stack_names() for kernel in stack_of(name).losses.values()}, key=repr)


@pytest.mark.parametrize(
    ("tokens", "hidden", "vocab", "chunk"), [(4 * 4096, 4096, 32000, 2048), (4096, 2048, 128256, 128), (100, 4096, 2000, 100)]
)
def test_liger_makes_logits_as_large_as_the_hidden_states(tokens: int, hidden: int, vocab: int, chunk: int) -> None:
    assert LIGER.tokens_per_chunk(tokens, hidden, vocab) == chunk


def test_unsloth_makes_chunks_by_free_memory() -> None:
    kernel = stack_of("unsloth==2026.10.9").loss_kernel("fused")
    roomy, tight = (kernel.tokens_per_chunk(4096, 4096, 128256, free_bytes=free) for free in (64 << 30, 1 << 30))
    assert roomy == 4096 // 4  # 8.4e9 bytes against 4 GiB: two chunks, rounded up to four
    assert tight == 4096 // 16
    assert kernel.tokens_per_chunk(512, 4096, 32000, free_bytes=64 << 30) == 512
    assert stack_of("unsloth==2025.10").loss_kernel("fused").tokens_per_chunk(4096, 4096, 128256, free_bytes=64 << 30) == 4096


def test_fixed_chunks_and_counts() -> None:
    assert stack_of("trl==1.10").loss_kernel("chunked").tokens_per_chunk(4095, 4096, 32000) == 256
    assert stack_of("torchtune").loss_kernel("chunked").tokens_per_chunk(4095, 4096, 32000) == 512
    assert stack_of("trl").loss_kernel("full").tokens_per_chunk(4095, 4096, 32000) == 4095
    assert stack_of("unsloth==2025.5").loss_kernel("fused").tokens_per_chunk(4095, 4096, 32000) == 0  # no logits at all


@given(
    kernel=st.sampled_from(KERNELS),
    tokens=st.integers(0, 1 << 20),
    hidden=st.integers(1, 1 << 14),
    vocab=st.integers(1, 1 << 18),
    free=st.one_of(st.none(), st.integers(0, 1 << 38)),
)
def test_a_chunk_is_never_longer_than_the_batch_and_more_memory_never_shortens_it(
    kernel: LossKernel, tokens: int, hidden: int, vocab: int, free: int | None
) -> None:
    chunk = kernel.tokens_per_chunk(tokens, hidden, vocab, free_bytes=free)
    assert 0 <= chunk <= tokens
    if free:
        assert chunk <= kernel.tokens_per_chunk(tokens, hidden, vocab, free_bytes=2 * free)
