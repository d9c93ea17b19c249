"""Falcon: attention and MLP side by side; one key/value head (7B), a few that are copied for every query head (40B), or ALiBi (RW).

Source: transformers 5.23 models/falcon/modeling_falcon.py, whose statements these functions follow. With a single key/value head it calls
SDPA with heads of different number, which no fused kernel takes (sdp_utils.cpp, check_batch_size_and_num_heads_dense): the scores are
written out in fp32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ftadvise.estimator.tape.attention import attention, repeated_heads, scores, weighted_values
from ftadvise.estimator.tape.blocks import layer_norm, plain_mlp
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tape, Tensor
from ftadvise.estimator.tape.math_attention import math_attention
from ftadvise.estimator.tape.ops import Saved, add, copy, narrow, softmax, to
from ftadvise.estimator.tape.positions import rotated
from ftadvise.estimator.tape.step import Decoder, rotary_tables
from ftadvise.profiles.model_spec import ModelSpec


def _picked(t: Tape, x: Tensor, width: int) -> Tensor:
    """x[..., [i], :]: indexing with a list copies; the gradient is put into zeros of the whole."""
    whole = x.width
    node = t.node("index", (x,), (), lambda grad, _: (t.new(grad.rows, whole, grad.item, "index_put"),))
    return t.new(x.rows, width, x.item, "index", node)


def _spread(t: Tape, x: Tensor, width: int) -> Tensor:
    """Broadcast to every query head and flattened, which copies; the gradient is summed."""
    narrow_width = x.width

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        return (t.new(grad.rows, narrow_width, grad.item, "sum"),)

    node = t.node("flatten", (x,), (), apply)
    return t.new(x.rows, width, x.item, "flatten", node)


def self_attention(ctx: Context, x: Tensor) -> Tensor:
    """FalconAttention.forward: the fused projection stays named until the end."""
    t, spec = ctx.t, ctx.spec
    heads, kv_heads = spec.num_attention_heads, spec.num_kv_heads
    query_width, kv_width = heads * spec.head_dim, kv_heads * spec.head_dim
    fused = ctx.linear("self_attention.query_key_value", x, query_width + 2 * kv_width, bias=spec.qkv_bias)
    q = narrow(t, fused, query_width)
    if kv_heads == heads:
        k, v = narrow(t, fused, kv_width, "select"), narrow(t, fused, kv_width, "select")
    else:
        k, v = _picked(t, fused, kv_width), _picked(t, fused, kv_width)
    if kv_heads not in (1, heads):
        q, k, v = _spread(t, q, query_width), _spread(t, k, query_width), _spread(t, v, query_width)
    if spec.position == "rope":
        q, k = rotated(ctx, q, k)
    if kv_heads == 1 != heads and ctx.recipe.attention == "sdpa":
        output = math_attention(ctx, q, k, v, heads, kv_heads=1, masked=True, broadcasts=True)
    elif ctx.kernel == "eager":
        return _eager(ctx, x, q, k, v)
    else:
        output = attention(_masked(ctx), q, k, v, heads, kv_heads=1 if kv_heads == 1 else heads)
    projected = ctx.linear("self_attention.dense", output, spec.hidden_size, bias=spec.o_bias)
    del fused
    return projected


def _eager(ctx: Context, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The weights have the dtype of the layer's input, and stay named; with ALiBi so do the scores before and after it, in fp32."""
    t, spec, heads = ctx.t, ctx.spec, ctx.spec.num_attention_heads
    if spec.num_kv_heads == 1 != heads:
        k, v = repeated_heads(ctx, k, heads, single=True), repeated_heads(ctx, v, heads, single=True)
    item = ctx.autocast or q.item
    raw = scores(t, _in_rows(ctx, to(t, q, item)), _in_rows(ctx, to(t, k, item)), heads)
    if spec.position == "rope":
        named = [_in_place(t, raw)]
    else:
        wide = to(t, raw, 4)
        named = [raw, wide, _in_place(t, add(t, wide, t.new("one", 1, 4, "alibi")))]
        del wide
    del raw
    weights = _softmax(ctx, named[-1], x.item)
    ctx.returned.append(weights)
    if spec.position == "rope":
        named.clear()  # their name is bound anew
    output = copy(t, weighted_values(t, to(t, weights, item), _in_rows(ctx, to(t, v, item)), heads))
    projected = ctx.linear("self_attention.dense", output, spec.hidden_size, bias=spec.o_bias)
    del named
    return projected


def _in_rows(ctx: Context, x: Tensor) -> Tensor:
    """Products copy what is laid out token by token, when there are several sequences."""
    return x if ctx.single_sequence else copy(ctx.t, x)


def _in_place(t: Tape, x: Tensor) -> Tensor:
    """Times or by a number, in place."""
    node = t.node("div_", (x,), (), lambda grad, _: (t.new(grad.rows, grad.width, grad.item, "div"),))
    return Tensor(x.storage, x.rows, x.width, x.item, node)


def _softmax(ctx: Context, logits: Tensor, item: int) -> Tensor:
    t = ctx.t
    masked = add(t, logits, t.new("one", 1, ctx.hidden, "mask"))
    return softmax(t, to(t, masked, item))


def _masked(ctx: Context) -> Context:
    """The model always makes a mask; with ALiBi it is an additive one of every head, which the kernel takes as it is."""
    if ctx.spec.position == "alibi" and ctx.recipe.attention == "sdpa":
        return dataclasses.replace(ctx, kernel="efficient" if ctx.like_cuda else "cpu", masked=False)
    return dataclasses.replace(ctx, masked=True)


def _mlp(ctx: Context, x: Tensor) -> Tensor:
    with ctx.t.scope("mlp"):
        return plain_mlp(ctx, x, up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h", width=ctx.spec.intermediate_size, bias=ctx.spec.mlp_bias)


def _added_in_place(t: Tape, x: Tensor, y: Tensor) -> Tensor:
    wants = (x.node is not None, y.node is not None)
    node = t.node("add_", (x, y), (), lambda grad, _: (grad if wants[0] else None, grad if wants[1] else None))
    return Tensor(x.storage, x.rows, x.width, x.item, node)


def parallel_layer(ctx: Context, hidden: Tensor, *, norms: int) -> Tensor:
    """FalconDecoderLayer.forward with `parallel_attn`; the newer models norm the MLP's input on its own."""
    t = ctx.t
    if norms == 2:
        normed = layer_norm(ctx, "ln_attn", hidden)
        mlp_normed = layer_norm(ctx, "ln_mlp", hidden)
    else:
        normed = mlp_normed = layer_norm(ctx, "input_layernorm", hidden)
    with t.scope("self_attention"):
        attention_output = self_attention(ctx, normed)
    output = _added_in_place(t, _mlp(ctx, mlp_normed), attention_output)
    return add(t, hidden, output)


def one_norm_layer(ctx: Context, hidden: Tensor) -> Tensor:
    """Falcon 7B and Falcon 2 11B."""
    return parallel_layer(ctx, hidden, norms=1)


def two_norm_layer(ctx: Context, hidden: Tensor) -> Tensor:
    """Falcon 40B and 180B."""
    return parallel_layer(ctx, hidden, norms=2)


def serial_layer(ctx: Context, hidden: Tensor) -> Tensor:
    """FalconDecoderLayer.forward without `parallel_attn` (Falcon RW)."""
    t = ctx.t
    normed = layer_norm(ctx, "input_layernorm", hidden)
    with t.scope("self_attention"):
        attention_output = self_attention(ctx, normed)
    residual = add(t, hidden, attention_output)
    mlp_normed = layer_norm(ctx, "post_attention_layernorm", residual)
    return add(t, residual, _mlp(ctx, mlp_normed))


def _kind(spec: ModelSpec, index: int) -> str:
    """The models with ALiBi are serial; of the others those of the new architecture have two norms, but for 11B (rope, 8 of 32 heads)."""
    if spec.position == "alibi":
        return "serial"
    return "two" if spec.num_kv_heads > 1 and not _shares_its_norm(spec) else "one"


def _shares_its_norm(spec: ModelSpec) -> bool:
    """Falcon 2 11B: the published count of 11,103,432,704 parameters is that of one norm per layer (`num_ln_in_parallel_attn: 1`)."""
    two_norms = spec.num_layers * 4 * spec.hidden_size + 2 * spec.hidden_size
    width = (spec.num_attention_heads + 2 * spec.num_kv_heads) * spec.head_dim
    linears = spec.hidden_size * (width + spec.num_attention_heads * spec.head_dim + 2 * spec.intermediate_size)
    embeddings = spec.vocab_size * spec.hidden_size * (1 if spec.tie_word_embeddings else 2)
    return spec.total_params < embeddings + spec.num_layers * linears + two_norms


def _drops_mask(ctx: Context) -> bool:
    """Eager attention only adds the mask: nothing keeps it for the backward pass but a checkpoint."""
    return ctx.kernel == "eager" and not ctx.recipe.gradient_checkpointing


def _makes_mask(ctx: Context) -> bool:
    """Without need, where lengths do not differ."""
    return ctx.recipe.attention == "sdpa" and not ctx.masked


def _position(ctx: Context, x: Tensor) -> tuple[Tensor, ...]:
    if ctx.spec.position == "rope" and _makes_mask(ctx) and not ctx.recipe.gradient_checkpointing:
        return x, ctx.t.new("scores", 1, 1, "mask")
    if ctx.spec.position == "rope" or not _drops_mask(ctx):
        return (x,)
    return x, ctx.t.new("scores", ctx.spec.num_attention_heads, ctx.hidden, "alibi_mask")


def _tables(ctx: Context) -> list[Tensor]:
    """cos and sin, or ALiBi, which is added to a mask of every head; and the mask that the model makes without need."""
    t, spec = ctx.t, ctx.spec
    tables = rotary_tables(ctx) if spec.position == "rope" else []
    if spec.position != "rope" and not _drops_mask(ctx):
        tables.append(t.new("scores", spec.num_attention_heads, ctx.hidden, "alibi_mask"))
    elif _makes_mask(ctx) and (spec.position != "rope" or ctx.recipe.gradient_checkpointing):
        tables.append(t.new("scores", 1, 1, "mask"))
    return tables


DECODERS = {
    "falcon": Decoder(
        kind=_kind,
        layers={"one": one_norm_layer, "two": two_norm_layer, "serial": serial_layer},
        tables=_tables,
        position=_position,
        own_linears=True,
        returns_weights=True,
    )
}
