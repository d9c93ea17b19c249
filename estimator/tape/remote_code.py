"""Llama-like models whose code comes with them: Qwen 1, Baichuan 1 and 2, InternLM 2.

Source: modeling_qwen.py of Qwen/Qwen-7B, modeling_baichuan.py of baichuan-inc/Baichuan2-7B-Base and 13B-Base, modeling_internlm2.py of
internlm/internlm2-7b: transcribed, not compared with a trace. Without the packages flash-attn and xformers, as their code then runs.
"""

from __future__ import annotations

import dataclasses

from ftadvise.estimator.tape.attention import attention, eager_attention
from ftadvise.estimator.tape.blocks import gated_mlp, rms_norm, rotate
from ftadvise.estimator.tape.chatglm import half_norm
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tensor
from ftadvise.estimator.tape.ops import add, cat, copy, mul, narrow, pointwise, split, to
from ftadvise.estimator.tape.positions import rotated, rotated_wide
from ftadvise.estimator.tape.step import Decoder


def _masked(ctx: Context) -> Context:
    """Their code hands SDPA a causal mask, always."""
    return dataclasses.replace(ctx, masked=True)


def qwen_layer(ctx: Context, hidden: Tensor) -> Tensor:
    """QWenBlock.forward."""
    t = ctx.t
    normed = rms_norm(ctx, "ln_1", hidden)
    with t.scope("attn"):
        attention_output = _qwen_attention(ctx, normed)
    between = add(t, attention_output, hidden)
    normed = rms_norm(ctx, "ln_2", between)
    with t.scope("mlp"):
        output = _qwen_mlp(ctx, normed)
    return add(t, between, output)


def _qwen_attention(ctx: Context, x: Tensor) -> Tensor:
    spec, t = ctx.spec, ctx.t
    heads, width = spec.num_attention_heads, spec.num_attention_heads * spec.head_dim
    mixed = ctx.linear("attn.c_attn", x, 3 * width, bias=True)
    q, k, v = split(t, mixed, (width, width, width))
    q, k = _qwen_rotated(ctx, q), _qwen_rotated(ctx, k)
    output = attention(_masked(ctx), q, k, v, heads, kv_heads=heads)
    projected = ctx.linear("attn.c_proj", output, spec.hidden_size)
    del mixed
    return projected


def _qwen_rotated(ctx: Context, x: Tensor) -> Tensor:
    """In fp32, and joined with the (empty) rest of each head."""
    t = ctx.t
    wide = to(t, x, 4)
    turned = rotate(ctx, narrow(t, wide, x.width))
    rest = narrow(t, wide, 0)
    return to(t, cat(t, [turned, rest]), x.item)


def _qwen_mlp(ctx: Context, x: Tensor) -> Tensor:
    """QWenMLP: the activation is on the second projection; both stay named."""
    t, spec = ctx.t, ctx.spec
    first = ctx.linear("mlp.w1", x, spec.intermediate_size)
    second = ctx.linear("mlp.w2", x, spec.intermediate_size)
    inner = mul(t, first, pointwise(t, second, "silu"))
    output = ctx.linear("mlp.c_proj", inner, spec.hidden_size)
    del first, second
    return output


def baichuan_layer(ctx: Context, hidden: Tensor) -> Tensor:
    """DecoderLayer.forward, BaichuanLayer.forward."""
    t, spec = ctx.t, ctx.spec
    residual = hidden
    hidden = half_norm(ctx, "input_layernorm", hidden)
    with t.scope("self_attn"):
        hidden = _baichuan_attention(ctx, hidden)
    hidden = add(t, residual, hidden)
    residual = hidden
    hidden = half_norm(ctx, "post_attention_layernorm", hidden)
    with t.scope("mlp"):
        hidden = gated_mlp(ctx, hidden, gate="mlp.gate_proj", up="mlp.up_proj", down="mlp.down_proj", width=spec.intermediate_size)
    return add(t, residual, hidden)


def _baichuan_attention(ctx: Context, x: Tensor) -> Tensor:
    """One packed projection. 7B rotates in fp32 and calls SDPA; 13B (ALiBi) writes its scores out."""
    spec, t = ctx.spec, ctx.t
    heads, width = spec.num_attention_heads, spec.num_attention_heads * spec.head_dim
    packed = ctx.linear("self_attn.W_pack", x, 3 * width)
    q, k, v = (narrow(t, packed, width, "select") for _ in range(3))
    if spec.position == "alibi":
        output = eager_attention(ctx, q, k, v, heads)
    else:
        q, k = rotated_wide(ctx, q, k, upcasts=True)
        output = attention(_masked(ctx), q, k, v, heads, kv_heads=heads)
    projected = ctx.linear("self_attn.o_proj", output, spec.hidden_size)
    del packed
    return projected


def internlm2_layer(ctx: Context, hidden: Tensor) -> Tensor:
    """InternLM2DecoderLayer.forward."""
    t, spec = ctx.t, ctx.spec
    residual = hidden
    hidden = rms_norm(ctx, "attention_norm", hidden)
    with t.scope("attention"):
        hidden = _internlm2_attention(ctx, hidden)
    hidden = add(t, residual, hidden)
    residual = hidden
    hidden = rms_norm(ctx, "ffn_norm", hidden)
    with t.scope("feed_forward"):
        hidden = gated_mlp(ctx, hidden, gate="feed_forward.w1", up="feed_forward.w3", down="feed_forward.w2", width=spec.intermediate_size)
    return add(t, residual, hidden)


def _internlm2_attention(ctx: Context, x: Tensor) -> Tensor:
    """Queries are gathered from between the keys and values of their group, which copies them."""
    spec, t = ctx.spec, ctx.t
    heads, kv_heads = spec.num_attention_heads, spec.num_kv_heads
    query_width, kv_width = heads * spec.head_dim, kv_heads * spec.head_dim
    qkv = ctx.linear("attention.wqkv", x, query_width + 2 * kv_width, bias=spec.qkv_bias)
    q = narrow(t, qkv, query_width)
    if kv_heads != heads:
        q = copy(t, q, "rearrange")
    k, v = narrow(t, qkv, kv_width, "select"), narrow(t, qkv, kv_width, "select")
    q, k = rotated(ctx, q, k)
    output = attention(ctx, q, k, v, heads, kv_heads=kv_heads)
    projected = ctx.linear("attention.wo", output, spec.hidden_size, bias=spec.o_bias)
    del qkv
    return projected


DECODERS = {
    "qwen": Decoder(kind=lambda spec, index: "layer", layers={"layer": qwen_layer}),
    "baichuan": Decoder(kind=lambda spec, index: "layer", layers={"layer": baichuan_layer}, norm=half_norm),
    "internlm2": Decoder(kind=lambda spec, index: "layer", layers={"layer": internlm2_layer}),
}
