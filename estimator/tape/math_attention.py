"""SDPA's math kernel: what runs when no fused kernel takes the call.

Source: torch aten/src/ATen/native/transformers/attention.cpp, _scaled_dot_product_attention_math: half-precision q, k and v become fp32, q
and k are scaled, the mask is added in place, the weights are returned too. (_safe_softmax also makes a copy of the weights for a moment.)
"""

from __future__ import annotations

from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tensor
from ftadvise.estimator.tape.ops import copy, dropout, scale, softmax, to
from ftadvise.estimator.tape.products import packed, repeated_heads, scores, scores_of, weighted_values


def math_attention(
    ctx: Context, q: Tensor, k: Tensor, v: Tensor, heads: int, *, kv_heads: int, masked: bool, drops: bool = False, broadcasts: bool = False
) -> Tensor:
    """The output of attention over the sequence.

    Grouped heads are repeated by the caller where there is a mask (repeat_kv; a single one is only seen several times), and else by the
    kernel (enable_gqa), which copies. `broadcasts`: a single head goes to the kernel as it is.
    """
    t, times = ctx.t, heads // kv_heads
    item = ctx.autocast or q.item
    if times > 1 and masked and not broadcasts:
        k, v = (repeated_heads(ctx, x, times, single=kv_heads == 1) for x in (k, v))
    q, k, v = to(t, q, item), to(t, k, item), to(t, v, item)
    wide_q, wide_k, wide_v = to(t, q, 4), to(t, k, 4), to(t, v, 4)
    scaled_q = scale(t, wide_q)
    mask = t.new(scores_of(k), 1, 4, "mask")
    if times > 1 and not masked and not broadcasts:
        wide_k, wide_v = (repeated_heads(ctx, x, times) for x in (wide_k, wide_v))
    scaled_k = scale(t, wide_k)
    if broadcasts and times > 1:
        scaled_k, wide_v = (repeated_heads(ctx, x, times, single=True) for x in (scaled_k, wide_v))
    raw = scores(t, packed(ctx, scaled_q), packed(ctx, scaled_k), heads)
    del scaled_q, scaled_k
    probabilities = softmax(t, raw)
    del raw
    if drops and ctx.training:
        probabilities = dropout(t, probabilities, fused=ctx.like_cuda)
    output = weighted_values(t, probabilities, packed(ctx, wide_v), heads)
    returned = to(t, output, item)
    also = t.new(scores_of(k), heads, item, "to") if item != 4 else None
    del also, mask
    return copy(t, returned)
