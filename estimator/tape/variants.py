"""Llama with small differences: other norms, other places of the norms, other rotations, multipliers, dropout.

Source: transformers 5.23, the modeling file of each model type, whose statements `self_attention` and the layers follow.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ftadvise.estimator.tape.attention import attention, dropping_attention
from ftadvise.estimator.tape.blocks import gated_mlp, layer_norm, norm, olmo_norm, plain_mlp, rms_norm
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tensor
from ftadvise.estimator.tape.ops import add, dropout, scale, to
from ftadvise.estimator.tape.positions import rotated, rotated_pairs_wide, rotated_wide
from ftadvise.estimator.tape.step import Decoder, Layer, rotary_tables
from ftadvise.estimator.tape.xielu import xielu_mlp
from ftadvise.profiles.model_spec import ModelSpec

Norm = Callable[[Context, str, Tensor], Tensor]
Rotation = Callable[[Context, Tensor, Tensor], tuple[Tensor, Tensor]]
Part = Callable[[Context, Tensor], Tensor]


def unrotated(ctx: Context, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Layers without positions."""
    return q, k


def self_attention(
    ctx: Context, x: Tensor, *, rotation: Rotation = rotated, qk_norm: str = "", norm_last: bool = False, wide_norm: bool = False,
    scales_query: bool = False, drops: bool = False, drops_output: bool = False, sliding: bool = False,
) -> Tensor:  # fmt: skip
    """The attention of these models.

    `qk_norm`: "head" or "width", the features that one norm of queries and keys covers; `norm_last`: after the rotation (Hunyuan);
    `wide_norm`: those norms multiply in fp32 (OLMo 2). `scales_query`: by position (Ministral 3). `drops`, `drops_output`: dropout on the
    weights and on the output.
    """
    t, spec = ctx.t, ctx.spec
    heads, kv_heads = spec.num_attention_heads, spec.num_kv_heads
    q = ctx.linear("self_attn.q_proj", x, heads * spec.head_dim, bias=spec.qkv_bias)
    k = ctx.linear("self_attn.k_proj", x, kv_heads * spec.head_dim, bias=spec.qkv_bias)
    v = ctx.linear("self_attn.v_proj", x, kv_heads * spec.head_dim, bias=spec.qkv_bias)
    normed = olmo_norm if wide_norm else rms_norm
    if qk_norm and not norm_last:
        q = normed(ctx, "self_attn.q_norm", q, values=heads if qk_norm == "head" else 1)
        k = normed(ctx, "self_attn.k_norm", k, values=kv_heads if qk_norm == "head" else 1)
    q, k = rotation(ctx, q, k)
    if qk_norm and norm_last:
        q = normed(ctx, "self_attn.query_layernorm", q, values=heads)
        k = normed(ctx, "self_attn.key_layernorm", k, values=kv_heads)
    if scales_query:
        q = scale(t, q, saved=(None,))
    if drops:
        output = dropping_attention(ctx, q, k, v, heads, kv_heads=kv_heads)
    else:
        output = attention(ctx, q, k, v, heads, kv_heads=kv_heads, sliding=sliding)
    projected = ctx.linear("self_attn.o_proj", output, spec.hidden_size, bias=spec.o_bias)
    return dropped(ctx, projected) if drops_output else projected


def bare_norm(ctx: Context, name: str, x: Tensor) -> Tensor:
    """OLMo's norm has no weights; it runs in fp32."""
    return to(ctx.t, layer_norm(ctx, name, to(ctx.t, x, 4), affine=False), x.item)


def dropped(ctx: Context, x: Tensor) -> Tensor:
    """Dropout in training."""
    return dropout(ctx.t, x, fused=ctx.like_cuda) if ctx.training else x


def gated(ctx: Context, x: Tensor) -> Tensor:
    """LlamaMLP."""
    return gated_mlp(
        ctx, x, gate="mlp.gate_proj", up="mlp.up_proj", down="mlp.down_proj", width=ctx.spec.intermediate_size, bias=ctx.spec.mlp_bias
    )


def gated_dropped(ctx: Context, x: Tensor) -> Tensor:
    """SeedOssMLP."""
    return dropped(ctx, gated(ctx, x))


def squared(ctx: Context, x: Tensor) -> Tensor:
    """ArceeMLP, NemotronMLP: relu squared."""
    spec = ctx.spec
    return plain_mlp(ctx, x, up="mlp.up_proj", down="mlp.down_proj", width=spec.intermediate_size, act="relu2", bias=spec.mlp_bias)


def gelu_mlp(ctx: Context, x: Tensor) -> Tensor:
    """Starcoder2MLP."""
    spec = ctx.spec
    return plain_mlp(ctx, x, up="mlp.c_fc", down="mlp.c_proj", width=spec.intermediate_size, act="gelu", bias=spec.mlp_bias)


def pre_norm_layer(
    ctx: Context, hidden: Tensor, *, attend: Part, mlp: Part = gated, normed: Norm = norm, multiplier: bool = False,
    names: tuple[str, str] = ("input_layernorm", "post_attention_layernorm"),
) -> Tensor:  # fmt: skip
    """LlamaDecoderLayer.forward. `multiplier` (Granite): both residual branches are scaled."""
    t = ctx.t
    residual = hidden
    hidden = normed(ctx, names[0], hidden)
    with t.scope("self_attn"):
        hidden = attend(ctx, hidden)
    hidden = add(t, residual, scale(t, hidden) if multiplier else hidden)
    residual = hidden
    hidden = normed(ctx, names[1], hidden)
    with t.scope("mlp"):
        hidden = mlp(ctx, hidden)
    return add(t, residual, scale(t, hidden) if multiplier else hidden)


def post_norm_layer(ctx: Context, hidden: Tensor, *, attend: Part, normed: Norm) -> Tensor:
    """OLMo 2 and 3, EXAONE 4: the outputs are normed, not the inputs."""
    t = ctx.t
    residual = hidden
    with t.scope("self_attn"):
        hidden = attend(ctx, hidden)
    hidden = normed(ctx, "post_attention_layernorm", hidden)
    hidden = add(t, residual, hidden)
    residual = hidden
    with t.scope("mlp"):
        hidden = gated(ctx, hidden)
    hidden = normed(ctx, "post_feedforward_layernorm", hidden)
    return add(t, residual, hidden)


def _attend(**settings: Any) -> Part:
    return functools.partial(self_attention, **settings)


def _pre(**settings: Any) -> Layer:
    return functools.partial(pre_norm_layer, **({"attend": self_attention} | settings))


def _post(**settings: Any) -> Layer:
    return functools.partial(post_norm_layer, **settings)


def _every_fourth(spec: ModelSpec, index: int) -> str:
    """Three layers of one kind, then one of the other (SmolLM3 and EXAONE 4: without positions; OLMo 3: without a window)."""
    return "fourth" if index % 4 == 3 else "layer"


def _windowed(spec: ModelSpec, index: int) -> str:
    return _every_fourth(spec, index) if spec.sliding_window else "full"


def _same(spec: ModelSpec, index: int) -> str:
    return "layer"


def _one(layer: Layer, *, normed: Norm = norm, **settings: Any) -> Decoder:
    return Decoder(kind=_same, layers={"layer": layer}, norm=normed, **settings)


_FP32_TABLES = functools.partial(rotary_tables, item=4)
_OLMO2 = {"rotation": rotated_wide, "qk_norm": "width", "wide_norm": True}
_EXAONE = _post(attend=_attend(qk_norm="head", sliding=True), normed=rms_norm)

DECODERS = {
    "olmo": _one(_pre(attend=_attend(rotation=rotated_wide), normed=bare_norm), normed=bare_norm, tables=_FP32_TABLES),
    "olmo2": _one(_post(attend=_attend(**_OLMO2), normed=olmo_norm), normed=olmo_norm, tables=_FP32_TABLES),
    "olmo3": Decoder(
        kind=_every_fourth,
        layers={
            "layer": _post(attend=_attend(**_OLMO2, sliding=True), normed=olmo_norm),
            "fourth": _post(attend=_attend(**_OLMO2), normed=olmo_norm),
        },
        norm=olmo_norm,
        tables=_FP32_TABLES,
        masks=("full", "sliding"),
    ),
    "granite": _one(_pre(multiplier=True), scales_embedding=True),
    "arcee": _one(_pre(mlp=squared)),
    "apertus": _one(
        _pre(attend=_attend(qk_norm="head"), mlp=xielu_mlp, names=("attention_layernorm", "feedforward_layernorm")),
    ),
    "smollm3": Decoder(kind=_every_fourth, layers={"layer": _pre(), "fourth": _pre(attend=_attend(rotation=unrotated))}),
    "seed_oss": _one(_pre(attend=_attend(drops=True, drops_output=True), mlp=gated_dropped)),
    "ernie4_5": _one(_pre(attend=_attend(rotation=rotated_pairs_wide)), tables=_FP32_TABLES),
    "exaone4": Decoder(
        kind=_windowed,
        layers={
            "full": _post(attend=_attend(qk_norm="head"), normed=rms_norm),
            "layer": _EXAONE,
            "fourth": _post(attend=_attend(qk_norm="head", rotation=unrotated), normed=rms_norm),
        },
        masks=("full", "sliding"),
    ),
    "hunyuan_v1_dense": _one(_pre(attend=_attend(qk_norm="head", norm_last=True))),
    "starcoder2": _one(_pre(mlp=gelu_mlp)),
    "ministral": _one(_pre(attend=_attend(sliding=True))),
    "ministral3": _one(_pre(attend=_attend(scales_query=True))),
    **{name: _one(_pre()) for name in ("internlm", "internlm3", "mimo", "iquestcoder", "orion", "aquila")},
}
