"""Loss kernels: how training code gets from the last hidden states to a scalar. Data: profiles/losses.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["logits", "recomputed_chunks", "kept_chunks", "tiles", "chunks_in_forward"]


@dataclass(frozen=True, slots=True)
class LossKernel:
    """One implementation, as far as memory depends on it. T tokens, H hidden size, V vocabulary; c bytes of the compute dtype.

    `kind`:
        logits             T x V logits at once.
        recomputed_chunks  `chunk_tokens` at a time under non-reentrant checkpointing: nothing of a chunk outlives it, backward redoes it.
                           Held from forward to backward: one copy of the hidden states (c T H), the tokens that predict put first.
        kept_chunks        all chunks of logits are made first (c T V in total) and each keeps its log-softmax; one chunk at a time is
                           upcast forward, and differentiated backward.
        tiles              `chunk_tokens` x `tile_vocabulary` logits in one buffer (c each), forward and again backward. Held: the hidden
                           states and a few fp32 numbers per token; backward: the gradient of the hidden states in fp32, then narrowed. With
                           neither number the tile stays in registers.
        chunks_in_forward  each chunk's gradient is computed in the forward pass, in place of its logits. Held: the gradient of the hidden
                           states (c T H) and, of a trained head, its whole gradient; backward only scales them.
    """

    name: str = "transformers"
    kind: Kind = "logits"
    upcasts: bool = True
    """Logits of another dtype are copied to fp32 before the softmax; else the softmax runs, and is saved, in the compute dtype."""
    keeps_narrow: bool = False
    """`logits`: the caller's frame holds the logits in the compute dtype while the loss runs forward on its fp32 copy."""
    caller_upcasts: bool = False
    """`kept_chunks`: what the model returns is converted to fp32 before the loss sees it; that copy is what the caller holds."""
    copies_shifted: bool = False
    """`logits`: the loss copies all positions but the last of each sequence, beside the logits that it copies (4 T V more forward)."""
    caller_shifts: bool = False
    """`logits`: it is the training loop that copies, holds only the copy, and passes it transposed."""
    gradient_in_place: bool = False
    """`logits`: the logits are what is saved (no log-softmax), and backward writes their gradient into them."""
    fp32_projection: bool = False
    """The head (4 V H) and the chunk's hidden states are copied to fp32 for each product, forward and backward."""
    chunk_tokens: int = 0
    """Tokens of a chunk; 0: see `chunks`, `chunk_budget_bytes`, else the rule of `chunks_in_forward` (logits as large as hidden states)."""
    chunk_positions: int = 0
    """Tokens of every sequence in a chunk, which has so many of each."""
    chunks: int = 0
    """Number of chunks."""
    chunk_budget_bytes: int = 0
    """Number of chunks by memory: a chunk's assumed bytes stay within this and within half of what is free (-1: only the latter)."""
    chunk_assumed_bytes: int = 0
    """Bytes per logit that the rule above reckons with."""
    chunk_bytes: int = 0
    """Bytes per logit of one chunk that are alive at its worst moment, the chunk's own saved tensors included, for a 2-byte dtype."""
    tile_vocabulary: int = 0
    """Vocabulary entries of a tile."""

    def tokens_per_chunk(self, tokens: int, hidden_size: int, vocab_size: int, *, sequences: int = 1, free_bytes: int | None = None) -> int:
        """Tokens whose logits exist at once in one chunk or tile; all of them for `logits`.

        Args:
            tokens: of one micro batch, in all its `sequences`.
            free_bytes: free on the device when the loss runs; only the rule by memory asks.
        """
        if tokens < 1 or self.kind == "logits":
            return tokens
        if self.chunk_tokens:
            return min(tokens, self.chunk_tokens)
        if self.chunk_positions:
            return min(tokens, self.chunk_positions * sequences)
        if self.chunks:
            return -(-tokens // self.chunks)
        if self.chunk_budget_bytes:
            return -(-tokens // self._chunks_within(tokens * vocab_size * self.chunk_assumed_bytes, tokens, free_bytes))
        if self.kind != "chunks_in_forward":
            return 0
        # liger_kernel/ops/fused_linear_cross_entropy.py: T / ceil(V / H), rounded up to a power of two
        share = -(-tokens // -(-vocab_size // hidden_size))
        return min(tokens, 1 << (share - 1).bit_length())

    def _chunks_within(self, needed_bytes: int, tokens: int, free_bytes: int | None) -> int:
        """unsloth_zoo/fused_losses/cross_entropy_loss.py get_chunk_size: one chunk, or a multiple of four."""
        limits = [
            limit for limit in (self.chunk_budget_bytes, None if free_bytes is None else free_bytes // 2) if limit is not None and limit > 0
        ]
        if not limits or needed_bytes <= min(limits):
            return 1
        return min(tokens, 4 * -(-needed_bytes // (4 * min(limits))))
