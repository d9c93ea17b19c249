"""GLM: half of each head rotated, one projection for gate and up; GLM-4 0414 norms four times a layer.

Source: transformers 5.23 models/glm/modeling_glm.py and models/glm4/modeling_glm4.py, whose statements these functions follow.
"""

from __future__ import annotations

import functools

from ftadvise.estimator.tape.attention import attention
from ftadvise.estimator.tape.blocks import fused_gated_mlp, rms_norm
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tensor
from ftadvise.estimator.tape.ops import add
from ftadvise.estimator.tape.positions import partly_rotated
from ftadvise.estimator.tape.step import Decoder, rotary_tables

_ROTARY_SHARE = 0.5
"""`partial_rotary_factor` of every published GLM."""


def self_attention(ctx: Context, x: Tensor) -> Tensor:
    """GlmAttention.forward: the slices of a rotated head stay named until the attention."""
    spec = ctx.spec
    heads, kv_heads = spec.num_attention_heads, spec.num_kv_heads
    q = ctx.linear("self_attn.q_proj", x, heads * spec.head_dim, bias=spec.qkv_bias)
    k = ctx.linear("self_attn.k_proj", x, kv_heads * spec.head_dim, bias=spec.qkv_bias)
    v = ctx.linear("self_attn.v_proj", x, kv_heads * spec.head_dim, bias=spec.qkv_bias)
    q, k = partly_rotated(ctx, q, k, _ROTARY_SHARE, interleaved=True)
    output = attention(ctx, q, k, v, heads, kv_heads=kv_heads, heads_first=True)
    return ctx.linear("self_attn.o_proj", output, spec.hidden_size, bias=spec.o_bias)


def glm_layer(ctx: Context, hidden: Tensor, *, four_norms: bool = False) -> Tensor:
    """GlmDecoderLayer.forward, and with `four_norms` Glm4DecoderLayer.forward."""
    t = ctx.t
    residual = hidden
    hidden = rms_norm(ctx, "input_layernorm", hidden)
    with t.scope("self_attn"):
        hidden = self_attention(ctx, hidden)
    if four_norms:
        hidden = rms_norm(ctx, "post_self_attn_layernorm", hidden)
    hidden = add(t, residual, hidden)
    residual = hidden
    hidden = rms_norm(ctx, "post_attention_layernorm", hidden)
    with t.scope("mlp"):
        hidden = fused_gated_mlp(ctx, hidden, gate_up="mlp.gate_up_proj", down="mlp.down_proj", width=ctx.spec.intermediate_size)
    if four_norms:
        hidden = rms_norm(ctx, "post_mlp_layernorm", hidden)
    return add(t, residual, hidden)


def glm4_layer(ctx: Context, hidden: Tensor) -> Tensor:
    """Glm4DecoderLayer.forward."""
    return glm_layer(ctx, hidden, four_norms=True)


_TABLES = functools.partial(rotary_tables, share=_ROTARY_SHARE)

DECODERS = {
    "glm": Decoder(kind=lambda spec, index: "layer", layers={"layer": glm_layer}, tables=_TABLES),
    "glm4": Decoder(kind=lambda spec, index: "layer", layers={"layer": glm4_layer}, tables=_TABLES),
}
