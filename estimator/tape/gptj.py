"""GPT-J and GPT-Neo: attention scores written out, whatever attention the recipe asks for.

Source: transformers 5.23 models/gptj/modeling_gptj.py and models/gpt_neo/modeling_gpt_neo.py, which have no SDPA.
"""

from __future__ import annotations

from ftadvise.estimator.tape.attention import eager_attention
from ftadvise.estimator.tape.blocks import layer_norm, plain_mlp, rotate
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tensor
from ftadvise.estimator.tape.ops import add, cat, narrow, to
from ftadvise.estimator.tape.positions import learned
from ftadvise.estimator.tape.step import Decoder
from ftadvise.estimator.tape.virtual_tokens import with_prefix
from ftadvise.profiles.model_spec import ModelSpec

_ROTARY_FEATURES = 64
"""`rotary_dim` of GPT-J 6B and its descendants."""


def _projections(ctx: Context, x: Tensor, prefix: str) -> tuple[Tensor, Tensor, Tensor]:
    width = ctx.spec.num_attention_heads * ctx.spec.head_dim
    q = ctx.linear(f"{prefix}.q_proj", x, width)
    k = ctx.linear(f"{prefix}.k_proj", x, width)
    return q, k, ctx.linear(f"{prefix}.v_proj", x, width)


def _attend(ctx: Context, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries and keys in fp32, which autocast takes back for the product."""
    k, v = with_prefix(ctx, k, v)
    wide_q, wide_k = to(ctx.t, q, 4), to(ctx.t, k, 4)
    return eager_attention(ctx, wide_q, wide_k, v, ctx.spec.num_attention_heads)


def _partly_rotated(ctx: Context, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Key first; each call repeats sin and cos of every position for neighbouring pairs, and keeps them."""
    t = ctx.t
    turned = min(_ROTARY_FEATURES, ctx.spec.head_dim) * ctx.spec.num_attention_heads
    sincos = t.new("seq", turned // ctx.spec.num_attention_heads, q.item, "gather")
    k_rot, k_pass = narrow(t, k, turned), narrow(t, k, k.width - turned)
    q_rot, q_pass = narrow(t, q, turned), narrow(t, q, q.width - turned)
    k_turned = rotate(ctx, k_rot, tables=_tables(ctx, sincos))
    q_turned = rotate(ctx, q_rot, tables=_tables(ctx, sincos))
    key = cat(t, [k_turned, k_pass])
    query = cat(t, [q_turned, q_pass])
    return query, key, [sincos, k_turned, q_turned, k_pass, q_pass]


def _tables(ctx: Context, sincos: Tensor) -> list[Tensor]:
    return [ctx.t.new(sincos.rows, sincos.width, sincos.item, "repeat_interleave") for _ in range(2)]


def gptj_layer(ctx: Context, hidden: Tensor) -> Tensor:
    """GPTJBlock.forward: attention and MLP side by side on one norm."""
    t = ctx.t
    residual = hidden
    normed = layer_norm(ctx, "ln_1", hidden)
    with t.scope("attn"):
        attention_output = _gptj_attention(ctx, normed)
    with t.scope("mlp"):
        output = plain_mlp(ctx, normed, up="mlp.fc_in", down="mlp.fc_out", width=ctx.spec.intermediate_size, act="gelu_new")
    return add(t, add(t, attention_output, output), residual)


def _gptj_attention(ctx: Context, x: Tensor) -> Tensor:
    q, k, v = _projections(ctx, x, "attn")
    q, k, named = _partly_rotated(ctx, q, k)
    output = ctx.linear("attn.out_proj", _attend(ctx, q, k, v), ctx.spec.hidden_size)
    del named
    return output


def gpt_neo_layer(ctx: Context, hidden: Tensor) -> Tensor:
    """GPTNeoBlock.forward: GPT-2's, without its dropout. Local and global layers keep the same."""
    t = ctx.t
    residual = hidden
    hidden = layer_norm(ctx, "ln_1", hidden)
    with t.scope("attn"):
        attention_output = _gpt_neo_attention(ctx, hidden)
    hidden = add(t, attention_output, residual)
    residual = hidden
    hidden = layer_norm(ctx, "ln_2", hidden)
    with t.scope("mlp"):
        output = plain_mlp(ctx, hidden, up="mlp.c_fc", down="mlp.c_proj", width=ctx.spec.intermediate_size, act="gelu_new")
    return add(t, residual, output)


def _gpt_neo_attention(ctx: Context, x: Tensor) -> Tensor:
    q, k, v = _projections(ctx, x, "attn.attention")
    return ctx.linear("attn.attention.out_proj", _attend(ctx, q, k, v), ctx.spec.hidden_size, bias=True)


def _sines(spec: ModelSpec) -> int:
    """Every layer's sines and cosines of all positions, in fp32."""
    return 4 * spec.num_layers * (spec.max_position or 0) * min(_ROTARY_FEATURES, spec.head_dim)


def _causal_masks(spec: ModelSpec) -> int:
    """Every layer's causal mask of all positions, a byte each."""
    return int(spec.num_layers * (spec.max_position or 0) ** 2)


DECODERS = {
    "gptj": Decoder(
        kind=lambda spec, index: "layer", layers={"layer": gptj_layer}, tables=lambda ctx: [], buffers=_sines, returns_weights=True
    ),
    "gpt_neo": Decoder(
        kind=lambda spec, index: "layer",
        layers={"layer": gpt_neo_layer},
        position=learned("wpe", drops=False),
        buffers=_causal_masks,
        returns_weights=True,
    ),
}
