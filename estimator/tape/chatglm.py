"""ChatGLM 2 and 3 and GLM-4-9B, whose code comes with the model: fused projections, half of each head rotated, copied key/value heads.

Source: modeling_chatglm.py of THUDM/chatglm3-6b and THUDM/glm-4-9b (SelfAttention, CoreAttention, MLP, GLMBlock, RMSNorm), not run here:
transcribed, not compared with a trace. The first generation (layer norms, plain MLP) writes its scores out.
"""

from __future__ import annotations

import functools

from ftadvise.estimator.tape.attention import attention, eager_attention
from ftadvise.estimator.tape.blocks import layer_norm, plain_mlp, weighted
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tensor
from ftadvise.estimator.tape.ops import add, cat, mean, mul, narrow, pointwise, scale, split, square, to
from ftadvise.estimator.tape.positions import rotated
from ftadvise.estimator.tape.step import Decoder, rotary_tables
from ftadvise.profiles.model_spec import ModelSpec


def half_norm(ctx: Context, name: str, x: Tensor) -> Tensor:
    """RMSNorm of the remote code: only the variance is taken in fp32, so that the input is kept in both dtypes."""
    t, item = ctx.t, x.item
    variance = mean(t, square(t, to(t, x, 4)))
    inverse = pointwise(t, variance, "rsqrt", saves_output=True)
    normed = mul(t, x, inverse)
    return to(t, weighted(ctx, name, normed), item)


def _rotated_pairs(ctx: Context, x: Tensor) -> Tensor:
    """apply_rotary_pos_emb: neighbouring pairs of the first half of each head."""
    t = ctx.t
    turned, passed = narrow(t, x, x.width // 2), narrow(t, x, x.width - x.width // 2)
    pair = [narrow(t, turned, turned.width // 2, "select") for _ in range(4)]
    first = add(t, scale(t, pair[0], saved=(None,)), scale(t, pair[1], saved=(None,)))
    second = add(t, scale(t, pair[2], saved=(None,)), scale(t, pair[3], saved=(None,)))
    out = cat(t, [first, second])
    del first, second
    return cat(t, [out, passed])


def self_attention(ctx: Context, x: Tensor) -> Tensor:
    """SelfAttention.forward: key and value heads are expanded and made contiguous, whatever the kernel could do."""
    t, spec = ctx.t, ctx.spec
    heads, kv_heads = spec.num_attention_heads, spec.num_kv_heads
    query_width, kv_width = heads * spec.head_dim, kv_heads * spec.head_dim
    mixed = ctx.linear("self_attention.query_key_value", x, query_width + 2 * kv_width, bias=spec.qkv_bias)
    q, k, v = split(t, mixed, (query_width, kv_width, kv_width))
    q = _rotated_pairs(ctx, q)
    k = _rotated_pairs(ctx, k)
    if kv_heads != heads:
        k, v = _expanded(ctx, k, query_width), _expanded(ctx, v, query_width)
    output = attention(ctx, q, k, v, heads, kv_heads=heads)
    projected = ctx.linear("self_attention.dense", output, spec.hidden_size, bias=spec.o_bias)
    del mixed
    return projected


def _expanded(ctx: Context, x: Tensor, width: int) -> Tensor:
    t, before = ctx.t, x.width
    node = t.node("expand", (x,), (), lambda grad, _: (t.new(grad.rows, before, grad.item, "sum"),))
    return t.new(x.rows, width, x.item, "contiguous", node)


def _mlp(ctx: Context, x: Tensor) -> Tensor:
    spec = ctx.spec
    inner = _swiglu(ctx, ctx.linear("mlp.dense_h_to_4h", x, 2 * spec.intermediate_size, bias=spec.mlp_bias))
    return ctx.linear("mlp.dense_4h_to_h", inner, spec.hidden_size, bias=spec.mlp_bias)


def _swiglu(ctx: Context, x: Tensor) -> Tensor:
    gate, up = split(ctx.t, x, (x.width // 2, x.width // 2))
    return mul(ctx.t, pointwise(ctx.t, gate, "silu"), up)


def chatglm_layer(ctx: Context, hidden: Tensor) -> Tensor:
    """GLMBlock.forward: everything is named until the end."""
    t = ctx.t
    normed = half_norm(ctx, "input_layernorm", hidden)
    with t.scope("self_attention"):
        attention_output = self_attention(ctx, normed)
    between = add(t, hidden, attention_output)
    normed = half_norm(ctx, "post_attention_layernorm", between)
    with t.scope("mlp"):
        output = _mlp(ctx, normed)
    return add(t, between, output)


def first_layer(ctx: Context, hidden: Tensor) -> Tensor:
    """ChatGLM-6B: residuals start from the normed input."""
    t, spec = ctx.t, ctx.spec
    width = spec.num_attention_heads * spec.head_dim
    normed = layer_norm(ctx, "input_layernorm", hidden)
    with t.scope("attention"):
        q, k, v = split(t, ctx.linear("attention.query_key_value", normed, 3 * width, bias=True), (width, width, width))
        q, k = rotated(ctx, q, k)
        attended = eager_attention(ctx, q, k, v, spec.num_attention_heads)
        attention_output = ctx.linear("attention.dense", attended, spec.hidden_size, bias=True)
    between = add(t, scale(t, normed), attention_output)
    normed = layer_norm(ctx, "post_attention_layernorm", between)
    with t.scope("mlp"):
        output = plain_mlp(ctx, normed, up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h", width=spec.intermediate_size)
    return add(t, scale(t, normed), output)


def _kind(spec: ModelSpec, index: int) -> str:
    return "layer" if spec.mlp == "gated" else "first"


def _final_norm(ctx: Context, name: str, x: Tensor) -> Tensor:
    return half_norm(ctx, name, x) if ctx.spec.mlp == "gated" else layer_norm(ctx, name, x)


DECODERS = {
    "chatglm": Decoder(
        kind=_kind,
        layers={"layer": chatglm_layer, "first": first_layer},
        norm=_final_norm,
        tables=functools.partial(rotary_tables, share=0.5),
    )
}
