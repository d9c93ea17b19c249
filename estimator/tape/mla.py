"""Multi-head latent attention: queries, keys and values from compressed projections (DeepSeek V2 and V3, and their like).

Source: transformers 5.23 models/deepseek_v2, deepseek_v3, mistral4 (modeling files); torch/csrc/autograd/functions/tensor.cpp (CopySlices).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from ftadvise.estimator.tape.attention import attention
from ftadvise.estimator.tape.blocks import rms_norm, rotate
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Node, Tape, Tensor
from ftadvise.estimator.tape.experts import Routing
from ftadvise.estimator.tape.moe import SIGMOID, decoder, routed_and_shared
from ftadvise.estimator.tape.ops import Saved, add, cat, narrow, scale, split, to
from ftadvise.estimator.tape.variants import self_attention
from ftadvise.profiles.model_spec import Mla


def sizes(ctx: Context) -> Mla:
    """The ranks and widths; a decoder with latent attention is chosen for models that have them."""
    assert ctx.spec.mla is not None  # noqa: S101 - narrows the type
    return ctx.spec.mla


def latent_attention(ctx: Context, x: Tensor, *, rotation: str, scales_query: bool = False) -> Tensor:
    """DeepseekV3Attention.forward. `rotation`: "interleaved", "complex" (DeepSeek V2) or "half" (Llama's). `scales_query`: by position."""
    t, spec, mla, heads = ctx.t, ctx.spec, sizes(ctx), ctx.spec.num_attention_heads
    q = _queries(ctx, x)
    q_pass, q_rot = split(t, q, (heads * mla.qk_nope_head_dim, heads * mla.qk_rope_head_dim))
    compressed = ctx.linear("self_attn.kv_a_proj_with_mqa", x, mla.kv_lora_rank + mla.qk_rope_head_dim, bias=spec.qkv_bias)
    latent, k_rot = split(t, compressed, (mla.kv_lora_rank, mla.qk_rope_head_dim))
    latent = rms_norm(ctx, "self_attn.kv_a_layernorm", latent)
    if mla.qk_rope_head_dim:
        q_rot, k_rot = _rotated(ctx, q_rot, k_rot, rotation)
    queries = cat(t, (q_pass, q_rot))
    if scales_query:
        queries = scale(t, queries, saved=(None,))
    keys, values = _expanded(ctx, latent, k_rot)
    output = attention(ctx, queries, keys, values, heads, kv_heads=heads)
    return ctx.linear("self_attn.o_proj", output, spec.hidden_size, bias=spec.o_bias)


def _queries(ctx: Context, x: Tensor) -> Tensor:
    mla, heads = sizes(ctx), ctx.spec.num_attention_heads
    width = heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
    if not mla.q_lora_rank:
        return ctx.linear("self_attn.q_proj", x, width)
    low = rms_norm(ctx, "self_attn.q_a_layernorm", ctx.linear("self_attn.q_a_proj", x, mla.q_lora_rank, bias=ctx.spec.qkv_bias))
    return ctx.linear("self_attn.q_b_proj", low, width)


def _rotated(ctx: Context, q: Tensor, k: Tensor, rotation: str) -> tuple[Tensor, Tensor]:
    if rotation == "half":
        turned = rotate(ctx, q)
        return turned, rotate(ctx, k)
    if rotation == "complex":
        return _complex(ctx, q, k)
    q1, q2 = _even_and_odd(ctx, q)
    k1, k2 = _even_and_odd(ctx, k)
    q_embed = _interleaved(ctx, q1, q2)
    return q_embed, _interleaved(ctx, k1, k2)


def _even_and_odd(ctx: Context, x: Tensor) -> tuple[Tensor, Tensor]:
    return narrow(ctx.t, x, x.width // 2), narrow(ctx.t, x, x.width // 2)


def _interleaved(ctx: Context, first: Tensor, second: Tensor) -> Tensor:
    t = ctx.t
    return cat(t, (_difference(t, first, second), _difference(t, second, first)))


def _difference(t: Tape, a: Tensor, b: Tensor) -> Tensor:
    return add(t, scale(t, a), scale(t, b))


def _complex(ctx: Context, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs as complex numbers in fp32, multiplied by the rotation."""
    t = ctx.t
    wide = [to(t, x, 4) if x.item != 4 else scale(t, x, "clone") for x in (q, k)]
    q_out = to(t, scale(t, wide[0]), q.item)
    k_out = to(t, scale(t, wide[1]), k.item)
    return q_out, k_out


def _expanded(ctx: Context, latent: Tensor, k_rot: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of every head. Keys are copied into a new tensor part by part; values stay a view."""
    t, mla, heads = ctx.t, sizes(ctx), ctx.spec.num_attention_heads
    nope, rope = heads * mla.qk_nope_head_dim, heads * mla.qk_rope_head_dim
    both = ctx.linear("self_attn.kv_b_proj", latent, nope + heads * mla.v_head_dim)
    k_nope, values = split(t, both, (nope, heads * mla.v_head_dim))
    keys = t.new(both.rows, nope + rope, both.item, "new_empty")
    keys.node = _copied_into(t, keys, k_nope, nope, first=True)
    keys.node = _copied_into(t, keys, k_rot, rope, first=False)
    return keys, values


def _copied_into(t: Tape, whole: Tensor, part: Tensor, width: int, *, first: bool) -> Node | None:
    """CopySlices: backward copies the gradient of the whole, and of the part; an expanded part's gradient is summed over the heads."""
    rows, whole_width, item, part_width = whole.rows, whole.width, whole.item, part.width

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        result = t.new(rows, whole_width, item, "copy_slices")
        gradient = t.new(rows, width, item, "clone")
        if not first:
            zeros = t.new(rows, width, item, "zeros_like")
            del zeros
        if part_width != width:
            gradient = t.new(rows, part_width, item, "sum")
        return (None if first else result, gradient)

    return t.node("copy_slices", (None if first else whole, part), (), apply)


def mistral3_attention(ctx: Context, x: Tensor) -> Tensor:
    """Of the text models inside: Mistral 4's (Mistral4Attention.forward), or plain."""
    return latent_attention(ctx, x, rotation="interleaved", scales_query=True) if ctx.spec.mla else self_attention(ctx, x)


_V2 = Routing(fp32_product=True, fp32_scores=True)
_MISTRAL4 = Routing(kind="gathered", fp32_scores=True)

DECODERS = {
    "deepseek_v2": decoder(functools.partial(latent_attention, rotation="complex"), functools.partial(routed_and_shared, routing=_V2)),
    "deepseek_v3": decoder(
        functools.partial(latent_attention, rotation="interleaved"), functools.partial(routed_and_shared, routing=SIGMOID)
    ),
    "mistral3": decoder(mistral3_attention, functools.partial(routed_and_shared, routing=_MISTRAL4)),
    "glm4_moe_lite": decoder(
        functools.partial(latent_attention, rotation="interleaved"), functools.partial(routed_and_shared, routing=SIGMOID)
    ),
}
