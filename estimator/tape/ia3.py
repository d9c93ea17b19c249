"""IA3 as PEFT computes it: a trained vector scales a layer's output, or the input of the last layer of an MLP.

Source: peft 0.21 tuners/ia3/layer.py (Linear.forward), bnb.py (Linear4bit.forward, Linear8bitLt.forward).
"""

from __future__ import annotations

from ftadvise.estimator.peft_settings import FEEDFORWARD_MODULES
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Leaf, Tensor
from ftadvise.estimator.tape.linear import Weight, linear
from ftadvise.estimator.tape.ops import copy, mul, to, to_plain


def ia3_linear(ctx: Context, name: str, x: Tensor, weight: Weight, out_features: int, bias: Leaf | None) -> Tensor:
    """One adapted layer. On a quantised base, but for CUDA's autocast, it works in fp32 and so does what follows."""
    feedforward = name.rsplit(".", 1)[-1] in FEEDFORWARD_MODULES
    scaling = _scaling(ctx, name, weight.width // out_features if feedforward else out_features)
    run = _on_plain_base if weight.quantization == "none" else _on_quantized_base
    return run(ctx, x, scaling, weight, out_features, bias, feedforward=feedforward)


def _scaling(ctx: Context, name: str, features: int) -> Tensor:
    """1 * the vector."""
    t, item = ctx.t, ctx.adapter
    leaf = ctx.leaf(f"{name}.ia3_l", features, item)
    node = t.node("mul", (leaf,), (), lambda grad, _: (to_plain(t, t.new("one", features, grad.item, "mul"), item),))
    return t.new("one", features, item, "mul", node)


def _on_plain_base(
    ctx: Context, x: Tensor, scaling: Tensor, weight: Weight, out_features: int, bias: Leaf | None, *, feedforward: bool
) -> Tensor:
    t = ctx.t
    if feedforward:
        wide = to(t, x, ctx.adapter)
        inside = to(t, mul(t, wide, scaling), x.item)
        return linear(t, weight, inside, (x.rows, out_features), autocast=ctx.autocast, bias=bias)
    result = linear(t, weight, x, (x.rows, out_features), autocast=ctx.autocast, bias=bias)
    return to(t, mul(t, result, scaling), result.item)


def _on_quantized_base(
    ctx: Context, x: Tensor, scaling: Tensor, weight: Weight, out_features: int, bias: Leaf | None, *, feedforward: bool
) -> Tensor:
    t = ctx.t
    converts = not (ctx.autocast and ctx.like_cuda) and x.item != 4
    wide = to(t, x, 4) if converts else x
    if feedforward:
        result = linear(t, weight, mul(t, wide, scaling), (x.rows, out_features), autocast=ctx.autocast, bias=bias)
        expected = result.item
    else:
        plain = linear(t, weight, wide, (x.rows, out_features), autocast=ctx.autocast, bias=bias)
        expected = plain.item
        result = mul(t, plain, scaling)
        del plain
    if weight.quantization != "int8":
        result = copy(t, result, "clone")
    return to(t, result, expected) if converts else result
