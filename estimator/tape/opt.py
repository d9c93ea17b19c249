"""OPT: learned positions per sequence, dropout of 0.1 at every residual, ReLU.

Source: transformers 5.23 models/opt/modeling_opt.py, whose statements these functions follow. OPT-350m, the one model that norms after each
block and projects a narrower embedding, is described as the others are.
"""

from __future__ import annotations

from ftadvise.estimator.tape.attention import attention
from ftadvise.estimator.tape.blocks import activation, layer_norm
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tensor
from ftadvise.estimator.tape.ops import add, dropout, scale
from ftadvise.estimator.tape.positions import learned
from ftadvise.estimator.tape.step import Decoder


def self_attention(ctx: Context, x: Tensor) -> Tensor:
    """OPTAttention.forward: the query is scaled before the kernel."""
    spec, heads = ctx.spec, ctx.spec.num_attention_heads
    width = heads * spec.head_dim
    q = scale(ctx.t, ctx.linear("self_attn.q_proj", x, width, bias=spec.qkv_bias))
    k = ctx.linear("self_attn.k_proj", x, width, bias=spec.qkv_bias)
    v = ctx.linear("self_attn.v_proj", x, width, bias=spec.qkv_bias)
    output = attention(ctx, q, k, v, heads, kv_heads=heads)
    return ctx.linear("self_attn.out_proj", output, spec.hidden_size, bias=spec.o_bias)


def opt_layer(ctx: Context, hidden: Tensor) -> Tensor:
    """OPTDecoderLayer.forward: one name for every step of the MLP."""
    t, spec = ctx.t, ctx.spec
    residual = hidden
    hidden = layer_norm(ctx, "self_attn_layer_norm", hidden)
    with t.scope("self_attn"):
        hidden = self_attention(ctx, hidden)
    hidden = _dropped(ctx, hidden)
    hidden = add(t, residual, hidden)
    residual = hidden
    hidden = layer_norm(ctx, "final_layer_norm", hidden)
    with t.scope("mlp"):
        hidden = ctx.linear("fc1", hidden, spec.intermediate_size, bias=spec.mlp_bias)
        hidden = activation(ctx, hidden, "relu")
        hidden = ctx.linear("fc2", hidden, spec.hidden_size, bias=spec.mlp_bias)
    hidden = _dropped(ctx, hidden)
    return add(t, residual, hidden)


def _dropped(ctx: Context, x: Tensor) -> Tensor:
    return dropout(ctx.t, x, fused=ctx.like_cuda) if ctx.training else x


DECODERS = {
    "opt": Decoder(
        kind=lambda spec, index: "layer",
        layers={"layer": opt_layer},
        position=learned("embed_positions", drops=False, offset=2, rows="tokens"),
    )
}
