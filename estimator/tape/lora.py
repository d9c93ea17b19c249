"""LoRA as PEFT computes it, y = W x + B A dropout(x) * scaling, and the shape of every method that adds to a layer's output.

Source: peft 0.21 tuners/lora/layer.py (Linear.forward), bnb.py (Linear4bit.forward, Linear8bitLt.forward). Rank-stabilised LoRA scales by
another number and takes the same memory.
"""

from __future__ import annotations

from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Leaf, Tensor
from ftadvise.estimator.tape.linear import Weight, linear
from ftadvise.estimator.tape.ops import add, copy, dropout, scale, to


def lora_linear(ctx: Context, name: str, x: Tensor, weight: Weight, out_features: int, bias: Leaf | None) -> Tensor:
    """One adapted layer. PEFT casts its input to the adapter's dtype; on a quantised base only outside CUDA's autocast."""
    t = ctx.t
    result = base_layer(ctx, x, weight, out_features, bias)
    before, quantised = result.item, weight.quantization != "none"
    inside = to(t, x, ctx.adapter) if converts(ctx, weight) else x
    output = _scaled(ctx, *pair(ctx, name, weight, out_features), inside, out_features)
    if quantised:
        output = to(t, output, before) if converts(ctx, weight) else output
        return add(t, result, output)
    result = add(t, result, output)
    del output
    return to(t, result, before)


def base_layer(ctx: Context, x: Tensor, weight: Weight, out_features: int, bias: Leaf | None) -> Tensor:
    """The layer that is adapted; a 4-bit one's output is copied."""
    result = linear(ctx.t, weight, x, (x.rows, out_features), autocast=ctx.autocast, bias=bias)
    return copy(ctx.t, result, "clone") if weight.quantization in ("nf4", "fp4") else result


def converts(ctx: Context, weight: Weight) -> bool:
    """Whether the adapter's input is cast to its dtype: not on a quantised base under CUDA's autocast, which PEFT leaves to it."""
    return not (weight.quantization != "none" and ctx.autocast and ctx.like_cuda)


def pair(ctx: Context, name: str, weight: Weight, out_features: int) -> tuple[Weight, Weight]:
    """A (rank x in) and B (out x rank)."""
    in_features = weight.width // out_features
    a, b = f"{name}.lora_A", f"{name}.lora_B"
    return (
        Weight(a, in_features, ctx.adapter, "rank", leaf=ctx.leaf(a, in_features, ctx.adapter, "rank")),
        Weight(b, out_features, ctx.adapter, "rank", leaf=ctx.leaf(b, out_features, ctx.adapter, "rank")),
    )


def dropped(ctx: Context, x: Tensor) -> Tensor:
    """dropout(x), x itself in evaluation or without dropout."""
    return dropout(ctx.t, x, fused=ctx.like_cuda) if ctx.recipe.dropout and ctx.training else x


def _scaled(ctx: Context, a: Weight, b: Weight, x: Tensor, out_features: int) -> Tensor:
    t = ctx.t
    shaken = dropped(ctx, x)
    low = linear(t, a, shaken, (f"{x.rows}*rank", 1), autocast=ctx.autocast)
    del shaken
    high = linear(t, b, low, (x.rows, out_features), autocast=ctx.autocast)
    del low
    return scale(t, high)
