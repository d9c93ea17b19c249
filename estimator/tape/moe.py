"""Decoders with routed experts: Mixtral, Qwen 2 and 3 MoE, OLMoE and their like. One layer as transformers 5.23 writes it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ftadvise.estimator.tape.attention import attention
from ftadvise.estimator.tape.blocks import gated_mlp, rms_norm
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tensor
from ftadvise.estimator.tape.experts import Routing, grouped_experts, route
from ftadvise.estimator.tape.ops import add, mul, pointwise
from ftadvise.estimator.tape.positions import partly_rotated, rotated, rotated_pairs_wide
from ftadvise.estimator.tape.step import Decoder, Layer
from ftadvise.estimator.tape.variants import pre_norm_layer
from ftadvise.estimator.tape.variants import self_attention as common_attention
from ftadvise.profiles.model_spec import ModelSpec

Block = Callable[[Context, Tensor], Tensor]


def self_attention(ctx: Context, x: Tensor, *, normed: str) -> Tensor:
    """Qwen3MoeAttention.forward: each projection is normed before the next one. `normed`: "head", or the whole "width" (OLMoE)."""
    spec = ctx.spec
    heads, kv_heads = spec.num_attention_heads, spec.num_kv_heads
    q = ctx.linear("self_attn.q_proj", x, heads * spec.head_dim, bias=spec.qkv_bias)
    q = rms_norm(ctx, "self_attn.q_norm", q, values=heads if normed == "head" else 1)
    k = ctx.linear("self_attn.k_proj", x, kv_heads * spec.head_dim, bias=spec.qkv_bias)
    k = rms_norm(ctx, "self_attn.k_norm", k, values=kv_heads if normed == "head" else 1)
    v = ctx.linear("self_attn.v_proj", x, kv_heads * spec.head_dim, bias=spec.qkv_bias)
    q, k = rotated(ctx, q, k)
    output = attention(ctx, q, k, v, heads, kv_heads=kv_heads)
    return ctx.linear("self_attn.o_proj", output, spec.hidden_size, bias=spec.o_bias)


def dense_mlp(ctx: Context, x: Tensor, *, part: str = "mlp", width: int = 0) -> Tensor:
    """A gated MLP; `width` where it is not the model's."""
    spec = ctx.spec
    gate, up, down = (f"{part}.{name}_proj" for name in ("gate", "up", "down"))
    return gated_mlp(ctx, x, gate=gate, up=up, down=down, width=width or spec.intermediate_size, bias=spec.mlp_bias)


def routed(ctx: Context, x: Tensor, *, routing: Routing) -> Tensor:
    """Router and experts (Mixtral, Qwen3-MoE, OLMoE)."""
    _, weights, index = route(ctx, x, routing)
    return grouped_experts(ctx, x, index, weights)


def routed_and_gated_shared(ctx: Context, x: Tensor, *, routing: Routing) -> Tensor:
    """Qwen2MoeSparseMoeBlock: a shared expert, first, whose output is weighed by a gate of its own."""
    t, spec = ctx.t, ctx.spec
    assert spec.experts is not None  # noqa: S101 - narrows the type
    shared = dense_mlp(ctx, x, part="mlp.shared_expert", width=spec.experts.shared_intermediate_size)
    _, weights, index = route(ctx, x, routing)
    output = grouped_experts(ctx, x, index, weights)
    shared = _weighed(ctx, x, shared)
    return add(t, output, shared)


def routed_and_shared(ctx: Context, x: Tensor, *, routing: Routing) -> Tensor:
    """DeepseekV3MoE.forward: the shared experts, one MLP of their joint width, come last."""
    t, experts = ctx.t, ctx.spec.experts
    assert experts is not None  # noqa: S101 - narrows the type
    _, weights, index = route(ctx, x, routing)
    hidden = grouped_experts(ctx, x, index, weights)
    if not experts.shared_intermediate_size:
        return hidden
    return add(t, hidden, dense_mlp(ctx, x, part="mlp.shared_experts", width=experts.shared_intermediate_size))


def shared_and_routed(ctx: Context, x: Tensor, *, routing: Routing) -> Tensor:
    """Ernie4_5_MoeSparseMoeBlock.forward: the shared experts come first, without a gate."""
    t, experts = ctx.t, ctx.spec.experts
    assert experts is not None  # noqa: S101 - narrows the type
    width = experts.shared_intermediate_size
    shared = dense_mlp(ctx, x, part="mlp.shared_experts", width=width) if width else None
    _, weights, index = route(ctx, x, routing)
    hidden = grouped_experts(ctx, x, index, weights)
    return add(t, hidden, shared) if shared is not None else hidden


def _weighed(ctx: Context, x: Tensor, shared: Tensor) -> Tensor:
    t = ctx.t
    gate = pointwise(t, ctx.linear("mlp.shared_expert_gate", x, 1), "sigmoid", saves_output=True)
    return mul(t, shared, gate)


def half_rotated_attention(ctx: Context, x: Tensor) -> Tensor:
    """Glm4MoeAttention.forward: half of each head is rotated. (GLM-4.5 with 355B also norms queries and keys; the cards do not say so.)"""
    spec = ctx.spec
    heads, kv_heads = spec.num_attention_heads, spec.num_kv_heads
    q = ctx.linear("self_attn.q_proj", x, heads * spec.head_dim, bias=spec.qkv_bias)
    k = ctx.linear("self_attn.k_proj", x, kv_heads * spec.head_dim, bias=spec.qkv_bias)
    v = ctx.linear("self_attn.v_proj", x, kv_heads * spec.head_dim, bias=spec.qkv_bias)
    q, k = partly_rotated(ctx, q, k, 0.5)[:2]
    output = attention(ctx, q, k, v, heads, kv_heads=kv_heads, heads_first=True)
    return ctx.linear("self_attn.o_proj", output, spec.hidden_size, bias=spec.o_bias)


def first_layers_dense(spec: ModelSpec, index: int) -> str:
    """The first layers are dense, the others have experts."""
    return "dense" if spec.experts is None or index < spec.experts.first_dense_layers else "experts"


def decoder(attend: Block, block: Block, **options: Any) -> Decoder:
    """A decoder with dense layers first and experts after them."""
    layers: dict[str, Layer] = {
        "dense": functools.partial(pre_norm_layer, attend=attend, mlp=dense_mlp),
        "experts": functools.partial(pre_norm_layer, attend=attend, mlp=block),
    }
    return Decoder(kind=first_layers_dense, layers=layers, **options)


_plain = common_attention
_wide = functools.partial(common_attention, rotation=rotated_pairs_wide)
_head_normed = functools.partial(self_attention, normed="head")
_width_normed = functools.partial(self_attention, normed="width")

SIGMOID = Routing(kind="sigmoid", fp32_product=True)
_ERNIE = Routing(kind="gathered", fp32_product=True, autocast=False)

DECODERS = {
    "dots1": decoder(_head_normed, functools.partial(routed_and_shared, routing=SIGMOID)),
    "ernie4_5_moe": decoder(_wide, functools.partial(shared_and_routed, routing=_ERNIE)),
    "glm4_moe": decoder(half_rotated_attention, functools.partial(routed_and_shared, routing=SIGMOID)),
    "mixtral": decoder(_plain, functools.partial(routed, routing=Routing(fp32_scores=True))),
    "qwen2_moe": decoder(_plain, functools.partial(routed_and_gated_shared, routing=Routing())),
    "qwen3_moe": decoder(_head_normed, functools.partial(routed, routing=Routing())),
    "olmoe": decoder(_width_normed, functools.partial(routed, routing=Routing())),
}
