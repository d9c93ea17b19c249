"""Phi: Phi-1 to 2 run attention and MLP side by side on one norm; Phi-3 and 4 are Llama-like with fused projections.

Source: transformers 5.23 models/phi/modeling_phi.py and models/phi3/modeling_phi3.py, whose statements these functions follow.
"""

from __future__ import annotations

from ftadvise.estimator.tape.attention import attention
from ftadvise.estimator.tape.blocks import fused_gated_mlp, layer_norm, plain_mlp, rms_norm
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tensor
from ftadvise.estimator.tape.ops import add, narrow
from ftadvise.estimator.tape.positions import partly_rotated, partly_rotated_named
from ftadvise.estimator.tape.step import Decoder, rotary_tables


def _phi_share(ctx: Context) -> float:
    """Phi-1 and 1.5 rotate 32 of 64 features (0.5), Phi-2 32 of 80 (0.4): `partial_rotary_factor` of their configs."""
    return 0.4 if ctx.spec.head_dim == 80 else 0.5


def phi_attention(ctx: Context, x: Tensor) -> Tensor:
    """PhiAttention.forward."""
    spec = ctx.spec
    heads, kv_heads = spec.num_attention_heads, spec.num_kv_heads
    q = ctx.linear("self_attn.q_proj", x, heads * spec.head_dim, bias=True)
    k = ctx.linear("self_attn.k_proj", x, kv_heads * spec.head_dim, bias=True)
    v = ctx.linear("self_attn.v_proj", x, kv_heads * spec.head_dim, bias=True)
    q, k, named = partly_rotated_named(ctx, q, k, _phi_share(ctx))
    output = attention(ctx, q, k, v, heads, kv_heads=kv_heads, heads_first=True)
    projected = ctx.linear("self_attn.dense", output, spec.hidden_size, bias=True)
    del named
    return projected


def phi_layer(ctx: Context, hidden: Tensor) -> Tensor:
    """PhiDecoderLayer.forward."""
    t = ctx.t
    residual = hidden
    normed = layer_norm(ctx, "input_layernorm", hidden)
    with t.scope("self_attn"):
        attention_output = phi_attention(ctx, normed)
    with t.scope("mlp"):
        output = plain_mlp(ctx, normed, up="mlp.fc1", down="mlp.fc2", width=ctx.spec.intermediate_size, act="gelu_new")
    return add(t, add(t, attention_output, output), residual)


def phi3_attention(ctx: Context, x: Tensor) -> Tensor:
    """Phi3Attention.forward: slices of the fused projection, which stays named until the end."""
    spec, t = ctx.spec, ctx.t
    heads, kv_heads = spec.num_attention_heads, spec.num_kv_heads
    query_width, kv_width = heads * spec.head_dim, kv_heads * spec.head_dim
    qkv = ctx.linear("self_attn.qkv_proj", x, query_width + 2 * kv_width, bias=spec.qkv_bias)
    q, k, v = narrow(t, qkv, query_width), narrow(t, qkv, kv_width), narrow(t, qkv, kv_width)
    q, k = partly_rotated(ctx, q, k, _phi3_share(ctx))
    output = attention(ctx, q, k, v, heads, kv_heads=kv_heads, heads_first=True)
    return ctx.linear("self_attn.o_proj", output, spec.hidden_size, bias=spec.o_bias)


def _phi3_share(ctx: Context) -> float:
    """Phi-4-mini (hidden size 3072 with 8 key/value heads) rotates three quarters of a head, all others the whole."""
    return 0.75 if ctx.spec.hidden_size == 3072 and ctx.spec.num_kv_heads == 8 else 1.0


def phi3_layer(ctx: Context, hidden: Tensor) -> Tensor:
    """Phi3DecoderLayer.forward."""
    t = ctx.t
    residual = hidden
    hidden = rms_norm(ctx, "input_layernorm", hidden)
    with t.scope("self_attn"):
        hidden = phi3_attention(ctx, hidden)
    hidden = add(t, residual, hidden)
    residual = hidden
    hidden = rms_norm(ctx, "post_attention_layernorm", hidden)
    with t.scope("mlp"):
        hidden = fused_gated_mlp(ctx, hidden, gate_up="mlp.gate_up_proj", down="mlp.down_proj", width=ctx.spec.intermediate_size)
    return add(t, residual, hidden)


def _phi_tables(ctx: Context) -> list[Tensor]:
    return rotary_tables(ctx, share=_phi_share(ctx))


def _phi3_tables(ctx: Context) -> list[Tensor]:
    return rotary_tables(ctx, share=_phi3_share(ctx))


DECODERS = {
    "phi": Decoder(kind=lambda spec, index: "layer", layers={"layer": phi_layer}, tables=_phi_tables),
    "phi3": Decoder(kind=lambda spec, index: "layer", layers={"layer": phi3_layer}, tables=_phi3_tables),
}
