"""Memory of the loss at its two peaks, forward and backward. Bytes.

    full     logits in the compute dtype (kept alive with the outputs), and in fp32: the upcast and the log-softmax forward; the log-softmax,
             its gradient and the logits' gradient backward, so 12 bytes and the logits per token and vocabulary entry
             (plain transformers Trainer; TRL up to 1.6)
    chunked  256 tokens at a time with an fp32 copy of the head (TRL 1.7 to 1.14)
    fused    no logits: tiles of at most 4096 tokens x 32768 vocabulary entries (TRL >= 1.15, trl/kernels/chunked_logprob.py).
             With Triton (CUDA) a tile is read in place. Without it (CPU) each tile is expanded by plain torch operations: 13 bytes per
             tile element forward, 29 backward, beside the tile itself; derived by counting the tensors alive in `_forward_tile` and
             `_backward_tile`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ftadvise.estimator.layout import Layout
from ftadvise.estimator.recipe import DTYPE_BYTES, Recipe

_TILE_TOKENS = 4096
_TILE_VOCABULARY = 32768
_CHUNK_TOKENS = 256
# bytes per tile element beside the tile: forward z, e, e*z in fp32 and one mask; backward seven fp32 tensors and one mask
_CPU_FORWARD_BYTES = 3 * 4 + 1
_CPU_BACKWARD_BYTES = 7 * 4 + 1


@dataclass(frozen=True, slots=True)
class LossMemory:
    """Bytes at the forward and at the backward peak of the loss, for one micro batch."""

    forward: int
    backward: int


def loss_memory(layout: Layout, recipe: Recipe, sequences: int, seq_len: int, *, device: str) -> LossMemory:
    """The loss of one micro batch; the last position of each sequence predicts nothing and is left out."""
    c = DTYPE_BYTES[recipe.compute_dtype]
    h, vocab = layout.spec.hidden_size, layout.spec.vocab_size
    tokens = sequences * max(1, seq_len - 1)
    hidden = tokens * h * c
    trained_head = 4 * vocab * h if recipe.method == "full" else 0
    if recipe.loss == "full":
        padded = sequences * seq_len
        return LossMemory(forward=padded * vocab * (c + 8), backward=padded * vocab * (c + 12) + trained_head // 2)
    if recipe.loss == "chunked":
        head_copy = 4 * vocab * h
        chunk = min(tokens, _CHUNK_TOKENS) * vocab * 12
        return LossMemory(forward=hidden + head_copy + chunk, backward=2 * hidden + head_copy + chunk + trained_head)
    tile_rows, tile_columns = min(tokens, _TILE_TOKENS), min(vocab, _TILE_VOCABULARY)
    buffer = tile_rows * _TILE_VOCABULARY * c
    tile = tile_rows * tile_columns
    gradient = tokens * h * 4
    expanded = (0, 0) if device == "cuda" else (_CPU_FORWARD_BYTES * tile, _CPU_BACKWARD_BYTES * tile)
    return LossMemory(forward=hidden + buffer + expanded[0], backward=hidden + gradient + buffer + expanded[1] + trained_head)
