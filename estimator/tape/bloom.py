"""BLOOM: ALiBi inside a baddbmm, scores written out, a GELU of its own, a norm after the embedding.

Source: transformers 5.23 models/bloom/modeling_bloom.py, which has no SDPA; its statements are followed.
"""

from __future__ import annotations

from collections.abc import Sequence

from ftadvise.estimator.tape.attention import scores, weighted_values
from ftadvise.estimator.tape.blocks import layer_norm
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tensor
from ftadvise.estimator.tape.ops import Saved, add, copy, narrow, softmax, to
from ftadvise.estimator.tape.step import Decoder
from ftadvise.estimator.tape.virtual_tokens import with_prefix

_FORWARD_TEMPORARIES, _BACKWARD_TEMPORARIES = 4, 5
"""Tensors that bloom_gelu_forward and bloom_gelu_back hold at once, beside what they read and return."""


def self_attention(ctx: Context, x: Tensor, residual: Tensor) -> Tensor:
    """BloomAttention.forward: everything is named until the end. Folding sequences and heads copies q, k and v of several sequences."""
    t, spec = ctx.t, ctx.spec
    heads, width = spec.num_attention_heads, spec.num_attention_heads * spec.head_dim
    fused = ctx.linear("self_attention.query_key_value", x, 3 * width, bias=True)
    q, k, v = (narrow(t, fused, width, "select") for _ in range(3))
    if not ctx.single_sequence:
        q, k, v = copy(t, q), copy(t, k), copy(t, v)
    k, v = with_prefix(ctx, k, v)
    item = ctx.autocast or q.item
    raw = scores(t, to(t, q, item), to(t, k, item), heads)
    weights = add(t, raw, t.new("one", 1, ctx.hidden, "mask"))
    wide = to(t, weights, 4)
    probabilities = softmax(t, wide)
    del wide
    probabilities = to(t, probabilities, q.item)
    ctx.returned.append(probabilities)
    context = weighted_values(t, to(t, probabilities, item), to(t, v, item), heads)
    context = copy(t, context)
    output = ctx.linear("self_attention.dense", context, spec.hidden_size, bias=True)
    return add(t, residual, output)


def gelu(ctx: Context, x: Tensor) -> Tensor:
    """GeLUFunction: keeps its input; written out without a graph, forward and backward."""
    t = ctx.t

    def temporaries(rows: str, width: int, item: int, number: int) -> None:
        held = [t.new(rows, width, item, "gelu") for _ in range(number)]
        del held

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        temporaries(grad.rows, grad.width, grad.item, _BACKWARD_TEMPORARIES)
        return (t.new(grad.rows, grad.width, grad.item, "gelu_back"),)

    temporaries(x.rows, x.width, x.item, _FORWARD_TEMPORARIES)
    out = t.new(x.rows, x.width, x.item, "gelu")
    out.node = t.node("gelu", (x,), (x,), apply)
    return out


def bloom_layer(ctx: Context, hidden: Tensor) -> Tensor:
    """BloomBlock.forward."""
    t, spec = ctx.t, ctx.spec
    normed = layer_norm(ctx, "input_layernorm", hidden)
    with t.scope("self_attention"):
        attention_output = self_attention(ctx, normed, hidden)
    normed = layer_norm(ctx, "post_attention_layernorm", attention_output)
    with t.scope("mlp"):
        inner = gelu(ctx, ctx.linear("mlp.dense_h_to_4h", normed, spec.intermediate_size, bias=True))
        output = ctx.linear("mlp.dense_4h_to_h", inner, spec.hidden_size, bias=True)
        return add(t, attention_output, output)


def _embedding_norm(ctx: Context, x: Tensor) -> tuple[Tensor, ...]:
    return (layer_norm(ctx, "word_embeddings_layernorm", x),)


DECODERS = {
    "bloom": Decoder(kind=lambda spec, index: "layer", layers={"layer": bloom_layer}, position=_embedding_norm, returns_weights=True)
}
