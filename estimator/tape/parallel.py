"""Attention and MLP side by side: Cohere, StableLM, Falcon.

Source: transformers 5.23 models/cohere, cohere2, stablelm, falcon (modeling files), whose statements these functions follow.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from ftadvise.estimator.tape.attention import attention
from ftadvise.estimator.tape.blocks import gated_mlp, layer_norm, weighted
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tape, Tensor
from ftadvise.estimator.tape.ops import Saved, add, mean, mul, pointwise, square, to
from ftadvise.estimator.tape.positions import partly_rotated_named, rotated_wide
from ftadvise.estimator.tape.step import Decoder, rotary_tables
from ftadvise.profiles.model_spec import ModelSpec


def cohere_norm(ctx: Context, name: str, x: Tensor, *, values: int = 1) -> Tensor:
    """CohereLayerNorm: a layer norm written out in fp32; x - mean is computed twice."""
    t, item = ctx.t, x.item
    wide = to(t, x, 4)
    middle = mean(t, wide, values)
    variance = mean(t, square(t, _minus(t, wide, middle)), values)
    normed = mul(t, _minus(t, wide, middle), pointwise(t, variance, "rsqrt", saves_output=True))
    del wide
    return to(t, weighted(ctx, name, normed, values=values), item)


def _minus(t: Tape, x: Tensor, middle: Tensor) -> Tensor:
    values = middle.width

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        negated = t.new(grad.rows, grad.width, grad.item, "neg")
        summed = t.new(grad.rows, values, grad.item, "sum")
        del negated
        return (grad, summed)

    node = t.node("sub", (x, middle), (), apply)
    return t.new(x.rows, x.width, x.item, "sub", node)


def cohere_layer(ctx: Context, hidden: Tensor, *, sliding: bool = False, rotates: bool = True) -> Tensor:
    """CohereDecoderLayer.forward, Cohere2DecoderLayer.forward."""
    t, spec = ctx.t, ctx.spec
    residual = hidden
    hidden = cohere_norm(ctx, "input_layernorm", hidden)
    with t.scope("self_attn"):
        attention_output = _cohere_attention(ctx, hidden, sliding=sliding, rotates=rotates)
    with t.scope("mlp"):
        output = gated_mlp(ctx, hidden, gate="mlp.gate_proj", up="mlp.up_proj", down="mlp.down_proj", width=spec.intermediate_size)
    return add(t, add(t, residual, attention_output), output)


def _cohere_attention(ctx: Context, x: Tensor, *, sliding: bool, rotates: bool) -> Tensor:
    spec = ctx.spec
    heads, kv_heads = spec.num_attention_heads, spec.num_kv_heads
    q = ctx.linear("self_attn.q_proj", x, heads * spec.head_dim, bias=spec.qkv_bias)
    k = ctx.linear("self_attn.k_proj", x, kv_heads * spec.head_dim, bias=spec.qkv_bias)
    v = ctx.linear("self_attn.v_proj", x, kv_heads * spec.head_dim, bias=spec.qkv_bias)
    if rotates:
        q, k = rotated_wide(ctx, q, k, upcasts=True)
    output = attention(ctx, q, k, v, heads, kv_heads=kv_heads, sliding=sliding)
    return ctx.linear("self_attn.o_proj", output, spec.hidden_size, bias=spec.o_bias)


def cohere2_sliding(ctx: Context, hidden: Tensor) -> Tensor:
    """Layers with a window are rotated."""
    return cohere_layer(ctx, hidden, sliding=True)


def cohere2_full(ctx: Context, hidden: Tensor) -> Tensor:
    """Layers over the whole sequence have no positions."""
    return cohere_layer(ctx, hidden, rotates=False)


_STABLELM_SHARE = 0.25
"""`partial_rotary_factor` of every published StableLM of this class."""


def stablelm_layer(ctx: Context, hidden: Tensor) -> Tensor:
    """StableLmDecoderLayer.forward, one after the other."""
    t, spec = ctx.t, ctx.spec
    residual = hidden
    hidden = layer_norm(ctx, "input_layernorm", hidden)
    with t.scope("self_attn"):
        attention_output = _stablelm_attention(ctx, hidden)
    residual = add(t, residual, attention_output)
    with t.scope("mlp"):
        output = gated_mlp(
            ctx,
            layer_norm(ctx, "post_attention_layernorm", residual),
            gate="mlp.gate_proj",
            up="mlp.up_proj",
            down="mlp.down_proj",
            width=spec.intermediate_size,
        )
    return add(t, residual, output)


def _stablelm_attention(ctx: Context, x: Tensor) -> Tensor:
    spec = ctx.spec
    heads, kv_heads = spec.num_attention_heads, spec.num_kv_heads
    q = ctx.linear("self_attn.q_proj", x, heads * spec.head_dim, bias=spec.qkv_bias)
    k = ctx.linear("self_attn.k_proj", x, kv_heads * spec.head_dim, bias=spec.qkv_bias)
    v = ctx.linear("self_attn.v_proj", x, kv_heads * spec.head_dim, bias=spec.qkv_bias)
    q, k, named = partly_rotated_named(ctx, q, k, _STABLELM_SHARE)
    output = attention(ctx, q, k, v, heads, kv_heads=kv_heads, heads_first=True)
    projected = ctx.linear("self_attn.o_proj", output, spec.hidden_size, bias=False)
    del named
    return projected


def _cohere2_kind(spec: ModelSpec, index: int) -> str:
    return "full" if index % 4 == 3 else "sliding"


DECODERS = {
    "cohere": Decoder(kind=lambda spec, index: "layer", layers={"layer": cohere_layer}, norm=cohere_norm),
    "cohere2": Decoder(
        kind=_cohere2_kind,
        layers={"sliding": cohere2_sliding, "full": cohere2_full},
        norm=cohere_norm,
        masks=("full", "sliding"),
    ),
    "stablelm": Decoder(
        kind=lambda spec, index: "layer", layers={"layer": stablelm_layer}, tables=functools.partial(rotary_tables, share=_STABLELM_SHARE)
    ),
}
