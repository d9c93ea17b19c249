"""GPT-2 and GPT-BigCode (StarCoder): learned positions, one fused projection, dropout at every residual.

Source: transformers 5.23 models/gpt2/modeling_gpt2.py and models/gpt_bigcode/modeling_gpt_bigcode.py. Published configs of both keep the
class's dropout of 0.1 on embeddings, attention weights and residuals. GPT-2's Conv1D layers are linear layers with a transposed weight.
"""

from __future__ import annotations

from ftadvise.estimator.tape.attention import dropping_attention
from ftadvise.estimator.tape.blocks import layer_norm, plain_mlp
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tensor
from ftadvise.estimator.tape.ops import add, dropout, split
from ftadvise.estimator.tape.positions import learned
from ftadvise.estimator.tape.step import Decoder


def self_attention(ctx: Context, x: Tensor) -> Tensor:
    """GPT2Attention.forward; with one key/value head GPTBigCodeAttention's."""
    spec, t = ctx.spec, ctx.t
    query_width, kv_width = spec.num_attention_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    q, k, v = split(t, ctx.linear("attn.c_attn", x, query_width + 2 * kv_width, bias=True), (query_width, kv_width, kv_width))
    output = dropping_attention(ctx, q, k, v, spec.num_attention_heads, kv_heads=spec.num_kv_heads)
    return _dropped(ctx, ctx.linear("attn.c_proj", output, spec.hidden_size, bias=True))


def _dropped(ctx: Context, x: Tensor) -> Tensor:
    return dropout(ctx.t, x, fused=ctx.like_cuda) if ctx.training else x


def gpt2_layer(ctx: Context, hidden: Tensor, *, act: str = "gelu_new") -> Tensor:
    """GPT2Block.forward: the attention's output stays named until the end."""
    t = ctx.t
    residual = hidden
    hidden = layer_norm(ctx, "ln_1", hidden)
    with t.scope("attn"):
        attention_output = self_attention(ctx, hidden)
    hidden = add(t, attention_output, residual)
    residual = hidden
    hidden = layer_norm(ctx, "ln_2", hidden)
    with t.scope("mlp"):
        output = _dropped(ctx, plain_mlp(ctx, hidden, up="mlp.c_fc", down="mlp.c_proj", width=ctx.spec.intermediate_size, act=act))
    return add(t, residual, output)


def bigcode_layer(ctx: Context, hidden: Tensor) -> Tensor:
    """GPTBigCodeBlock.forward: its GELU is one kernel."""
    return gpt2_layer(ctx, hidden, act="gelu")


_POSITION = learned("wpe", drops=True)

# GPT-BigCode keeps the causal mask of all positions, a byte each
DECODERS = {
    "gpt2": Decoder(kind=lambda spec, index: "layer", layers={"layer": gpt2_layer}, position=_POSITION),
    "gpt_bigcode": Decoder(
        kind=lambda spec, index: "layer",
        layers={"layer": bigcode_layer},
        position=_POSITION,
        buffers=lambda spec: (spec.max_position or 0) ** 2,
    ),
}
