"""GPT-NeoX and Pythia: attention and MLP side by side on the same input, a quarter of each head rotated.

Source: transformers 5.23 models/gpt_neox/modeling_gpt_neox.py, whose statements these functions follow.
"""

from __future__ import annotations

import functools

from ftadvise.estimator.tape.attention import attention
from ftadvise.estimator.tape.blocks import layer_norm, plain_mlp
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tensor
from ftadvise.estimator.tape.ops import add, split
from ftadvise.estimator.tape.positions import partly_rotated
from ftadvise.estimator.tape.step import Decoder, rotary_tables

_ROTARY_SHARE = 0.25
"""`rotary_pct` of GPT-NeoX-20B and all of Pythia."""


def self_attention(ctx: Context, x: Tensor) -> Tensor:
    """GPTNeoXAttention.forward: the fused projection stays named until the end."""
    spec = ctx.spec
    width = spec.num_attention_heads * spec.head_dim
    qkv = ctx.linear("attention.query_key_value", x, 3 * width, bias=spec.qkv_bias)
    q, k, v = split(ctx.t, qkv, (width, width, width))
    q, k = partly_rotated(ctx, q, k, _ROTARY_SHARE)
    output = attention(ctx, q, k, v, spec.num_attention_heads, kv_heads=spec.num_attention_heads, heads_first=True)
    return ctx.linear("attention.dense", output, spec.hidden_size, bias=spec.o_bias)


def gpt_neox_layer(ctx: Context, hidden: Tensor) -> Tensor:
    """GPTNeoXLayer.forward with `use_parallel_residual`, as in every published model."""
    t = ctx.t
    with t.scope("attention"):
        attention_output = self_attention(ctx, layer_norm(ctx, "input_layernorm", hidden))
    with t.scope("mlp"):
        output = plain_mlp(
            ctx,
            layer_norm(ctx, "post_attention_layernorm", hidden),
            up="mlp.dense_h_to_4h",
            down="mlp.dense_4h_to_h",
            width=ctx.spec.intermediate_size,
        )
    return add(t, add(t, output, attention_output), hidden)


_TABLES = functools.partial(rotary_tables, share=_ROTARY_SHARE)

DECODERS = {"gpt_neox": Decoder(kind=lambda spec, index: "layer", layers={"layer": gpt_neox_layer}, tables=_TABLES)}
