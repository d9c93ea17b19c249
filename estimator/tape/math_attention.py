"""SDPA's math kernel: what runs when no fused kernel takes the call.

Source: torch aten/src/ATen/native/transformers/attention.cpp, _scaled_dot_product_attention_math: half-precision q, k and v become fp32, q
and k are scaled, the mask is added in place, the weights are returned too. (_safe_softmax also makes a copy of the weights for a moment.)
"""

from __future__ import annotations

from ftadvise.estimator.tape.attention import attention, packed, repeated_heads, scores, weighted_values
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tensor
from ftadvise.estimator.tape.ops import copy, dropout, scale, softmax, to


def dropping_attention(ctx: Context, q: Tensor, k: Tensor, v: Tensor, heads: int, *, kv_heads: int) -> Tensor:
    """Attention with dropout of its weights, which the CPU's fused kernel cannot do (sdp_utils_cpp.cpp)."""
    if ctx.training and ctx.kernel == "cpu" and ctx.recipe.attention == "sdpa":
        return math_attention(ctx, q, k, v, heads, kv_heads=kv_heads, drops=True)
    return attention(ctx, q, k, v, heads, kv_heads=kv_heads, drops=True)


def math_attention(ctx: Context, q: Tensor, k: Tensor, v: Tensor, heads: int, *, kv_heads: int, drops: bool = False) -> Tensor:
    """The output of attention over the sequence; a single key/value head is seen by every query head."""
    t = ctx.t
    item = ctx.autocast or q.item
    if kv_heads not in (1, heads):
        k, v = repeated_heads(ctx, k, heads // kv_heads), repeated_heads(ctx, v, heads // kv_heads)
    q, k, v = to(t, q, item), to(t, k, item), to(t, v, item)
    wide_q, wide_k, wide_v = to(t, q, 4), to(t, k, 4), to(t, v, 4)
    scaled_q = scale(t, wide_q)
    mask = t.new("scores", 1, 4, "mask")
    scaled_k = scale(t, wide_k)
    if kv_heads == 1 != heads:
        scaled_k = repeated_heads(ctx, scaled_k, heads, single=True)
        wide_v = repeated_heads(ctx, wide_v, heads, single=True)
    raw = scores(t, packed(t, scaled_q), packed(t, scaled_k), heads)
    del scaled_q, scaled_k
    probabilities = softmax(t, raw)
    del raw
    if drops and ctx.training:
        probabilities = dropout(t, probabilities, fused=ctx.like_cuda)
    output = weighted_values(t, probabilities, packed(t, wide_v), heads)
    returned = to(t, output, item)
    also = t.new("scores", heads, item, "to") if item != 4 else None
    del also, mask
    return copy(t, returned)
