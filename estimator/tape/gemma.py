"""Gemma 1 to 3: norms that multiply in fp32, a scaled embedding; Gemma 2 caps attention scores and logits and norms four times a layer.

Source: transformers 5.23 models/gemma, models/gemma2, models/gemma3 (modeling files), whose statements these functions follow.
"""

from __future__ import annotations

import functools
from typing import Any

from ftadvise.estimator.tape.attention import attention
from ftadvise.estimator.tape.blocks import gated_mlp, gemma_norm
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tensor
from ftadvise.estimator.tape.ops import add
from ftadvise.estimator.tape.positions import rotated
from ftadvise.estimator.tape.step import Decoder, Layer
from ftadvise.profiles.model_spec import ModelSpec


def self_attention(ctx: Context, x: Tensor, *, qk_norm: bool = False, softcap: bool = False, sliding: bool = False) -> Tensor:
    """Gemma3Attention.forward: queries and keys are normed after all three projections."""
    spec = ctx.spec
    heads, kv_heads = spec.num_attention_heads, spec.num_kv_heads
    q = ctx.linear("self_attn.q_proj", x, heads * spec.head_dim, bias=spec.qkv_bias)
    k = ctx.linear("self_attn.k_proj", x, kv_heads * spec.head_dim, bias=spec.qkv_bias)
    v = ctx.linear("self_attn.v_proj", x, kv_heads * spec.head_dim, bias=spec.qkv_bias)
    if qk_norm:
        q = gemma_norm(ctx, "self_attn.q_norm", q, values=heads)
        k = gemma_norm(ctx, "self_attn.k_norm", k, values=kv_heads)
    q, k = rotated(ctx, q, k)
    output = attention(ctx, q, k, v, heads, kv_heads=kv_heads, softcap=softcap, sliding=sliding)
    return ctx.linear("self_attn.o_proj", output, spec.hidden_size, bias=spec.o_bias)


def _mlp(ctx: Context, x: Tensor) -> Tensor:
    return gated_mlp(ctx, x, gate="mlp.gate_proj", up="mlp.up_proj", down="mlp.down_proj", width=ctx.spec.intermediate_size, act="gelu")


def gemma_layer(ctx: Context, hidden: Tensor) -> Tensor:
    """GemmaDecoderLayer.forward: Llama's."""
    t = ctx.t
    residual = hidden
    hidden = gemma_norm(ctx, "input_layernorm", hidden)
    with t.scope("self_attn"):
        hidden = self_attention(ctx, hidden)
    hidden = add(t, residual, hidden)
    residual = hidden
    hidden = gemma_norm(ctx, "post_attention_layernorm", hidden)
    with t.scope("mlp"):
        hidden = _mlp(ctx, hidden)
    return add(t, residual, hidden)


def four_norm_layer(ctx: Context, hidden: Tensor, *, qk_norm: bool, softcap: bool, sliding: bool) -> Tensor:
    """Gemma2DecoderLayer.forward: norms before and after attention and MLP."""
    t = ctx.t
    residual = hidden
    hidden = gemma_norm(ctx, "input_layernorm", hidden)
    with t.scope("self_attn"):
        hidden = self_attention(ctx, hidden, qk_norm=qk_norm, softcap=softcap, sliding=sliding)
    hidden = gemma_norm(ctx, "post_attention_layernorm", hidden)
    hidden = add(t, residual, hidden)
    residual = hidden
    hidden = gemma_norm(ctx, "pre_feedforward_layernorm", hidden)
    with t.scope("mlp"):
        hidden = _mlp(ctx, hidden)
    hidden = gemma_norm(ctx, "post_feedforward_layernorm", hidden)
    return add(t, residual, hidden)


def _alternating(spec: ModelSpec, index: int) -> str:
    """Gemma 2: layers with and without a window take turns, the first has one."""
    if spec.layer_pattern:
        return "sliding" if spec.layer_pattern[index] == "S" else "full"
    return "full" if index % 2 else "sliding"


def _every_sixth(spec: ModelSpec, index: int) -> str:
    """Gemma 3: five layers with a window, then one without."""
    if spec.layer_pattern:
        return "sliding" if spec.layer_pattern[index] == "S" else "full"
    return "sliding" if (index + 1) % 6 else "full"


def _layers(*, qk_norm: bool, softcap: bool) -> dict[str, Layer]:
    layer = functools.partial(four_norm_layer, qk_norm=qk_norm, softcap=softcap)
    return {kind: functools.partial(layer, sliding=kind == "sliding") for kind in ("sliding", "full")}


_COMMON: dict[str, Any] = {"embedding_scales": True, "norm": gemma_norm}
_GEMMA = Decoder(kind=lambda spec, index: "layer", layers={"layer": gemma_layer}, **_COMMON)
_GEMMA2 = Decoder(
    kind=_alternating, layers=_layers(qk_norm=False, softcap=True), masks=("full", "sliding"), softcaps_logits=True, **_COMMON
)
_GEMMA3 = Decoder(kind=_every_sixth, layers=_layers(qk_norm=True, softcap=False), masks=("full", "sliding"), **_COMMON)

DECODERS = {"gemma": _GEMMA, "gemma2": _GEMMA2, "gemma3": _GEMMA3, "gemma3_text": _GEMMA3}
