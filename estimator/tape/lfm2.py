"""LFM2: short convolutions between attention layers. Source: transformers 5.23 models/lfm2/modeling_lfm2.py.

The convolution is PyTorch's own, which is what runs without the package causal-conv1d.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from ftadvise.estimator.tape.attention import attention
from ftadvise.estimator.tape.blocks import gated_mlp, rms_norm
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tensor
from ftadvise.estimator.tape.ops import Saved, add, copy, mul, narrow, scale, split, to
from ftadvise.estimator.tape.positions import rotated
from ftadvise.estimator.tape.step import Decoder, Layer
from ftadvise.profiles.model_spec import ModelSpec

KERNEL = 3
"""Tokens that a convolution sees (conv_L_cache of every published model)."""


def _attend(ctx: Context, x: Tensor) -> Tensor:
    spec = ctx.spec
    heads, kv_heads = spec.num_attention_heads, spec.num_kv_heads
    q = rms_norm(ctx, "self_attn.q_layernorm", ctx.linear("self_attn.q_proj", x, heads * spec.head_dim), values=heads)
    k = rms_norm(ctx, "self_attn.k_layernorm", ctx.linear("self_attn.k_proj", x, kv_heads * spec.head_dim), values=kv_heads)
    v = ctx.linear("self_attn.v_proj", x, kv_heads * spec.head_dim)
    q, k = rotated(ctx, q, k)
    output = attention(ctx, q, k, v, heads, kv_heads=kv_heads)
    return ctx.linear("self_attn.out_proj", output, spec.hidden_size)


def _short_convolution(ctx: Context, x: Tensor) -> Tensor:
    t, width = ctx.t, ctx.spec.hidden_size
    hidden = scale(t, x) if ctx.masked else x
    joint = ctx.linear("conv.in_proj", hidden, 3 * width)
    before, after, values = split(t, joint, (width, width, width))
    hidden = mul(t, before, values)
    hidden = _convolved(ctx, hidden)
    y = mul(t, after, hidden)
    y = copy(t, y)
    return ctx.linear("conv.out_proj", y, width)


def _convolved(ctx: Context, x: Tensor) -> Tensor:
    """causal_conv1d_fn: a depthwise convolution over padded tokens (the few tokens of padding are not counted), cut to their number."""
    t, rows, width, before = ctx.t, x.rows, x.width, x.item
    leaf = ctx.leaf("conv.conv.weight", width * KERNEL, ctx.parameter, columns=KERNEL) if ctx.full and ctx.training else None
    inside = to(t, x, ctx.autocast or before)
    item = inside.item

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        gradient = t.new(rows, width, item, "convolution_backward")
        return (gradient, t.new("one", width * KERNEL, ctx.parameter, "convolution_backward") if leaf is not None else None)

    node = t.node("convolution", (inside, leaf), (inside,), apply)
    out = t.new(rows, width, item, "convolution", node)
    return to(t, narrow(t, out, width), before)


def lfm2_layer(ctx: Context, hidden: Tensor, *, convolution: bool) -> Tensor:
    """Lfm2DecoderLayer.forward."""
    t = ctx.t
    residual = hidden
    operator, module = (_short_convolution, "conv") if convolution else (_attend, "self_attn")
    normed = rms_norm(ctx, "operator_norm", hidden)
    with t.scope(module):
        hidden = operator(ctx, normed)
    del normed
    hidden = add(t, hidden, residual)
    return add(t, hidden, _feed_forward(ctx, rms_norm(ctx, "ffn_norm", hidden)))


def _feed_forward(ctx: Context, x: Tensor) -> Tensor:
    with ctx.t.scope("feed_forward"):
        return gated_mlp(ctx, x, gate="feed_forward.w1", up="feed_forward.w3", down="feed_forward.w2", width=ctx.spec.intermediate_size)


def _kind(spec: ModelSpec, index: int) -> str:
    """By the model's pattern; without one, every third layer attends."""
    pattern = spec.layer_pattern or "CCF" * spec.num_layers
    return "convolution" if pattern[index] == "C" else "attention"


_LAYERS: dict[str, Layer] = {
    "convolution": functools.partial(lfm2_layer, convolution=True),
    "attention": functools.partial(lfm2_layer, convolution=False),
}
DECODERS = {"lfm2": Decoder(kind=_kind, layers=_LAYERS)}
