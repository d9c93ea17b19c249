"""LitGPT's own model: one projection for queries, keys and values with one adapter, norms and rotary positions in fp32.

Source: litgpt 0.5.13 model.py (Block, CausalSelfAttention, apply_rope, RMSNorm), lora.py (LoRALinear, LoRAQKVLinear.zero_pad). Versions
from 0.2.0 on save the same tensors; they differ in temporaries (0.2.0 copies the padded adapter output once more, and repeats grouped
keys before it rotates them).

The adapter of the joint projection covers the enabled ones of its three parts: `index_copy_` puts their output into zeros as wide as all
three, and saves its source. Values are a view that keeps the whole projection.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from ftadvise.estimator.tape.attention import attention
from ftadvise.estimator.tape.blocks import activation, layer_norm, olmo_norm, rotate_half
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Leaf, Tensor
from ftadvise.estimator.tape.linear import Weight, linear
from ftadvise.estimator.tape.lora import dropped, pair
from ftadvise.estimator.tape.ops import Saved, add, cat, mul, narrow, scale, split, to
from ftadvise.estimator.tape.positions import times_wide
from ftadvise.estimator.tape.step import Decoder, rotary_tables
from ftadvise.profiles.model_spec import ModelSpec

_PARTS = ("q_proj", "k_proj", "v_proj")
_JOINT = ("query_key_value", "qkv_proj")
"""What transformers calls a joint projection, where it has one."""


def lora_linear(ctx: Context, name: str, x: Tensor, weight: Weight, out_features: int, bias: Leaf | None) -> Tensor:
    """LoRALinear.forward."""
    t = ctx.t
    pretrained = linear(t, weight, x, (x.rows, out_features), autocast=ctx.autocast, bias=bias)
    a, b = pair(ctx, name, weight, out_features)
    low = linear(t, a, dropped(ctx, x), (f"{x.rows}*rank", 1), autocast=ctx.autocast)
    high = linear(t, b, low, (x.rows, out_features), autocast=ctx.autocast)
    del low
    lora = scale(t, high)
    del high
    return add(t, pretrained, lora)


def norm(ctx: Context, name: str, x: Tensor) -> Tensor:
    """RMSNorm works and multiplies in fp32, then casts; LayerNorm is torch's."""
    return olmo_norm(ctx, name, x) if ctx.spec.norm == "rmsnorm" else layer_norm(ctx, name, x)


def _joint_projection(ctx: Context, x: Tensor, widths: Sequence[int]) -> Tensor:
    """LoRAQKVLinear.forward."""
    t, in_features, total = ctx.t, x.width, sum(widths)
    joint = next((name for name in ctx.spec.linear_modules if name in _JOINT), "")
    whole = bool(joint) and ctx.targets(joint)
    enabled = [whole or ctx.targets(part) for part in _PARTS]
    adapted = ctx.recipe.method == "lora" and any(enabled)
    for name, width in [(joint, total)] if whole else zip(_PARTS, widths, strict=True):
        ctx.note(f"attn.{name}", in_features, width, bias=ctx.spec.qkv_bias, adapted=adapted)
    weight = ctx.weight(f"attn.{joint or _PARTS[0]}", in_features, total)
    pretrained = linear(
        t, weight, x, (x.rows, total), autocast=ctx.autocast, bias=ctx.bias("attn.qkv", total) if ctx.spec.qkv_bias else None
    )
    if not adapted:
        return pretrained
    count, width = sum(enabled), sum(each for each, wanted in zip(widths, enabled, strict=True) if wanted)
    a, b = (
        Weight(name, features, ctx.adapter, "rank", leaf=ctx.leaf(name, features, ctx.adapter, "rank"))
        for name, features in (("attn.lora_A", count * in_features), ("attn.lora_B", width))
    )
    low = linear(t, a, dropped(ctx, x), (f"{x.rows}*rank", count), autocast=ctx.autocast)
    high = linear(t, b, low, (x.rows, width), autocast=ctx.autocast)  # a grouped convolution over the parts
    del low
    lora = scale(t, _zero_pad(ctx, high, total))
    del high
    return add(t, pretrained, lora)


def _zero_pad(ctx: Context, x: Tensor, total: int) -> Tensor:
    """index_copy_ into zeros; its backward selects from the gradient, and looks at the source for its shape."""
    t, rows, width, item = ctx.t, x.rows, x.width, x.item
    if width == total:
        return x
    zeros = t.new(rows, total, item, "new_zeros")
    zeros.node = t.node("index_copy", (x,), (x,), lambda grad, _: (t.new(rows, width, item, "index_select"),))
    return zeros


def _rotated(ctx: Context, x: Tensor, share: float) -> Tensor:
    """The first `share` of each head rotated in fp32, then joined with the rest, which may be empty: a copy head by head."""
    turned = int(x.width * share)
    roped = _apply_rope(ctx, narrow(ctx.t, x, turned))
    return cat(ctx.t, [roped, narrow(ctx.t, x, x.width - turned)])


def _apply_rope(ctx: Context, x: Tensor) -> Tensor:
    t = ctx.t
    rotated = rotate_half(ctx, x)
    roped = add(t, times_wide(t, x, None), times_wide(t, rotated, None))
    return to(t, roped, x.item)


def _repeated(ctx: Context, x: Tensor, times: int) -> Tensor:
    """repeat_interleave over heads."""
    t, rows, width = ctx.t, x.rows, x.width

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        return (t.new(rows, width, grad.item, "sum"),)

    node = t.node("repeat_interleave", (x,), (), apply)
    return t.new(rows, width * times, x.item, "repeat_interleave", node)


def self_attention(ctx: Context, x: Tensor, *, rotary_share: float) -> Tensor:
    """CausalSelfAttention.forward: causal, never with a padding mask."""
    spec = ctx.spec
    heads, groups = spec.num_attention_heads, spec.num_kv_heads
    widths = (heads * spec.head_dim, groups * spec.head_dim, groups * spec.head_dim)
    qkv = _joint_projection(ctx, x, widths)
    query, key, v = split(ctx.t, qkv, widths)
    q = _rotated(ctx, query, rotary_share)
    k = _rotated(ctx, key, rotary_share)
    if groups != heads:
        k, v = _repeated(ctx, k, heads // groups), _repeated(ctx, v, heads // groups)
    y = attention(ctx, q, k, v, heads, kv_heads=heads, heads_first=True)
    name = next((each for each in spec.attention_modules if each not in (*_PARTS, *_JOINT)), "o_proj")
    return ctx.linear(f"attn.{name}", y, spec.hidden_size, bias=spec.o_bias)


def mlp(ctx: Context, x: Tensor) -> Tensor:
    """LLaMAMLP and GptNeoxMLP; a gate and an up projection that transformers joins are two layers here."""
    t, spec = ctx.t, ctx.spec
    width, bias = spec.intermediate_size, spec.mlp_bias
    *first, down = [name for name in spec.linear_modules if name not in spec.attention_modules]
    if spec.mlp == "plain":
        inner = activation(ctx, ctx.linear(f"mlp.{first[0]}", x, width, bias=bias), "gelu")
        return ctx.linear(f"mlp.{down}", inner, spec.hidden_size, bias=bias)
    gate, up = first if len(first) == 2 else (f"fc_1.{first[0]}", f"fc_2.{first[0]}")
    x_fc_1 = ctx.linear(f"mlp.{gate}", x, width, bias=bias)
    x_fc_2 = ctx.linear(f"mlp.{up}", x, width, bias=bias)
    return ctx.linear(f"mlp.{down}", mul(t, activation(ctx, x_fc_1, "silu"), x_fc_2), spec.hidden_size, bias=bias)


def block(ctx: Context, hidden: Tensor, *, parallel: bool, rotary_share: float) -> Tensor:
    """Block.forward; `parallel`: attention and MLP read the same hidden states."""
    t = ctx.t
    x_normed = norm(ctx, "norm_1", hidden)
    with t.scope("attn"):
        attention_output = self_attention(ctx, x_normed, rotary_share=rotary_share)
    if parallel:
        x_normed = norm(ctx, "norm_2", hidden)
        x = add(t, attention_output, hidden)
    else:
        x = add(t, attention_output, hidden)
        x_normed = norm(ctx, "norm_2", x)
    with t.scope("mlp"):
        return add(t, mlp(ctx, x_normed), x)


def _tables(ctx: Context) -> list[Tensor]:
    return rotary_tables(ctx, item=4)


def _decoder(*, parallel: bool = False, rotary_share: float = 1.0) -> Decoder:
    layer = functools.partial(block, parallel=parallel, rotary_share=rotary_share)
    return Decoder(kind=_kind, layers={"block": layer}, norm=norm, tables=_tables)


def _kind(spec: ModelSpec, index: int) -> str:
    return "block"


DECODERS = dict.fromkeys(("llama", "mistral", "phi3", "qwen2"), _decoder()) | {"gpt_neox": _decoder(parallel=True, rotary_share=0.25)}
"""By transformers' model_type: the architectures that LitGPT has and that are written down here (config.py)."""
