"""The Llama family (Llama, Mistral, Qwen2/3, Yi, InternLM, Gemma ...): one decoder layer as transformers writes it."""

from __future__ import annotations

from ftadvise.estimator.tape.attention import attention
from ftadvise.estimator.tape.blocks import gated_mlp, norm, rms_norm, rotate
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tensor
from ftadvise.estimator.tape.fused import can_fuse, lora_projections
from ftadvise.estimator.tape.ops import add
from ftadvise.estimator.tape.step import Decoder


def self_attention(ctx: Context, x: Tensor, *, qk_norm: bool = False, sliding: bool = False) -> Tensor:
    """LlamaAttention.forward; `qk_norm`: queries and keys are normed per head (Qwen3)."""
    spec = ctx.spec
    heads, kv_heads = spec.num_attention_heads, spec.num_kv_heads
    query_width, kv_width = heads * spec.head_dim, kv_heads * spec.head_dim
    names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    if can_fuse(ctx, names) and not qk_norm:
        q, k, v = lora_projections(ctx, x, list(zip(names, (query_width, kv_width, kv_width), strict=True)), in_place=True)
    else:
        q = ctx.linear("self_attn.q_proj", x, query_width, bias=spec.qkv_bias)
        if qk_norm:
            q = rms_norm(ctx, "self_attn.q_norm", q, values=heads)
        k = ctx.linear("self_attn.k_proj", x, kv_width, bias=spec.qkv_bias)
        if qk_norm:
            k = rms_norm(ctx, "self_attn.k_norm", k, values=kv_heads)
        v = ctx.linear("self_attn.v_proj", x, kv_width, bias=spec.qkv_bias)
    q, k = _rotated(ctx, q, k)
    output = attention(ctx, q, k, v, heads, kv_heads=kv_heads, sliding=sliding)
    if can_fuse(ctx, ("self_attn.o_proj",)):
        return lora_projections(ctx, output, [("self_attn.o_proj", spec.hidden_size)], in_place=False)[0]
    return ctx.linear("self_attn.o_proj", output, spec.hidden_size, bias=spec.o_bias)


def _rotated(ctx: Context, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    q_embed = rotate(ctx, q)
    return q_embed, rotate(ctx, k)


def llama_layer(ctx: Context, hidden: Tensor, *, qk_norm: bool = False, sliding: bool = False) -> Tensor:
    """LlamaDecoderLayer.forward."""
    t, spec = ctx.t, ctx.spec
    residual = hidden
    hidden = norm(ctx, "input_layernorm", hidden)
    with t.scope("self_attn"):
        hidden = self_attention(ctx, hidden, qk_norm=qk_norm, sliding=sliding)
    hidden = add(t, residual, hidden)
    residual = hidden
    hidden = norm(ctx, "post_attention_layernorm", hidden)
    with t.scope("mlp"):
        hidden = gated_mlp(
            ctx, hidden, gate="mlp.gate_proj", up="mlp.up_proj", down="mlp.down_proj", width=spec.intermediate_size, bias=spec.mlp_bias
        )
    return add(t, residual, hidden)


def qk_normed_layer(ctx: Context, hidden: Tensor) -> Tensor:
    """Qwen3DecoderLayer.forward: Llama's with normed queries and keys."""
    return llama_layer(ctx, hidden, qk_norm=True)


def sliding_layer(ctx: Context, hidden: Tensor) -> Tensor:
    """MistralDecoderLayer.forward: every layer attends to the model's sliding window."""
    return llama_layer(ctx, hidden, sliding=True)


_PLAIN = Decoder(kind=lambda spec, index: "layer", layers={"layer": llama_layer})
_QK_NORMED = Decoder(kind=lambda spec, index: "layer", layers={"layer": qk_normed_layer})

_SLIDING = Decoder(kind=lambda spec, index: "layer", layers={"layer": sliding_layer}, masks=("sliding",))

DECODERS = {
    "llama": _PLAIN,
    "mistral": _SLIDING,
    "qwen2": _PLAIN,
    "qwen3": _QK_NORMED,
}
