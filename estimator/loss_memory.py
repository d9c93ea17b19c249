"""Memory of the loss at its two peaks, forward and backward. Bytes.

By implementation:

    full     logits in the compute dtype, the upcast to fp32 (when that is another dtype) and the log-softmax forward; backward the
             log-softmax, its gradient and the logits' gradient: 12 bytes per token and vocabulary entry, and the logits if they are kept
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


def loss_memory(
    layout: Layout, recipe: Recipe, sequences: int, seq_len: int, *, device: str, fp32_head: bool = False, keeps_logits: bool = False
) -> LossMemory:
    """The loss of one micro batch; the last position of each sequence predicts nothing and is left out.

    With `fp32_head` autocast makes a copy of the head for its product, which lives until backward.
    """
    c = DTYPE_BYTES[recipe.compute_dtype]
    h, vocab = layout.spec.hidden_size, layout.spec.vocab_size
    tokens = sequences * max(1, seq_len - 1)
    hidden = tokens * h * c
    # cutting off the last position copies the hidden states, unless there is one sequence, whose rest is contiguous
    copy = hidden if sequences > 1 else 0
    trained_head = 4 * vocab * h if recipe.method == "full" else 0
    if recipe.loss == "full":
        entries, cast_head = sequences * seq_len * vocab, vocab * h * c if fp32_head else 0
        forward = entries * (c + (4 if c != 4 else 0) + 4) + cast_head
        backward = entries * (12 + (c if keeps_logits else 0)) + cast_head
        return LossMemory(forward, backward + trained_head // 2)
    if recipe.loss == "chunked":
        head_copy = 4 * vocab * h
        chunk = min(tokens, _CHUNK_TOKENS) * vocab * 12
        return LossMemory(forward=copy + head_copy + chunk, backward=2 * hidden + head_copy + chunk + trained_head)
    tile_rows, tile_columns = min(tokens, _TILE_TOKENS), min(vocab, _TILE_VOCABULARY)
    buffer = tile_rows * _TILE_VOCABULARY * c
    tile = tile_rows * tile_columns
    gradient = tokens * h * 4
    expanded = (0, 0)
    if device != "cuda":
        # the products of the gradient in fp32 cast the tile and its part of the head
        products = 4 * (tile + tile_columns * h) if c != 4 else 0
        expanded = (_CPU_FORWARD_BYTES * tile, max(_CPU_BACKWARD_BYTES * tile, products))
    return LossMemory(forward=copy + buffer + expanded[0], backward=hidden + gradient + buffer + expanded[1] + trained_head)
