"""DoRA as PEFT computes it: LoRA's direction, and a trained magnitude for each output feature, m / |W + s B A|.

Source: peft 0.21 tuners/lora/dora.py (DoraLinearLayer.forward), variants.py (DoraLinearVariant.forward).
"""

from __future__ import annotations

from collections.abc import Sequence

from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Leaf, Tape, Tensor
from ftadvise.estimator.tape.linear import Weight, cast_weight, linear, turned
from ftadvise.estimator.tape.lora import base_layer, converts, dropped, pair
from ftadvise.estimator.tape.ops import Saved, add, mul, scale, to, to_plain
from ftadvise.estimator.tape.work import Product

_MAGNITUDE_BYTES = 4  # the runner and PEFT keep the magnitude in fp32


def dora_linear(ctx: Context, name: str, x: Tensor, weight: Weight, out_features: int, bias: Leaf | None) -> Tensor:
    """One adapted layer. With dropout the base product is done twice: the second reads what dropout left."""
    t = ctx.t
    result = base_layer(ctx, x, weight, out_features, bias)
    before = result.item
    inside = to(t, x, ctx.adapter) if converts(ctx, weight) else x
    has_bias = ctx.linears[ctx.layer, name].bias
    result = _added(ctx, name, inside, result, weight, out_features, has_bias=has_bias)
    return to(t, result, before) if converts(ctx, weight) else result


def _added(ctx: Context, name: str, x: Tensor, result: Tensor, weight: Weight, out_features: int, *, has_bias: bool) -> Tensor:
    shaken = dropped(ctx, x)
    return add(ctx.t, result, _dora(ctx, name, shaken, None if shaken is not x else result, weight, out_features, has_bias=has_bias))


def _dora(ctx: Context, name: str, x: Tensor, base_result: Tensor | None, weight: Weight, out_features: int, *, has_bias: bool) -> Tensor:
    t = ctx.t
    a, b = pair(ctx, name, weight, out_features)
    held = _lora_weight(ctx, a, b, weight.width, x.item)
    full = _full_weight(t, weight, x.item, ctx.product)
    norm = _weight_norm(ctx, weight.width, out_features, x.item)
    magnitude = ctx.leaf(f"{name}.lora_magnitude_vector", out_features, _MAGNITUDE_BYTES)
    magnitudes = _divided(t, magnitude, norm)
    lora_result = _low_rank(ctx, a, b, x, out_features)
    if base_result is None:
        base_result = _product(ctx, x, weight, full, out_features)
    elif has_bias:
        base_result = scale(t, base_result, "sub")
    straight = mul(t, base_result, scale(t, magnitudes, "sub"))
    turned = scale(t, mul(t, lora_result, magnitudes))
    out = add(t, straight, turned)
    del held, full, norm
    return out


def _low_rank(ctx: Context, a: Weight, b: Weight, x: Tensor, out_features: int) -> Tensor:
    low = linear(ctx.t, a, x, (f"{x.rows}*rank", 1), autocast=ctx.autocast)
    return linear(ctx.t, b, low, (x.rows, out_features), autocast=ctx.autocast)


def _lora_weight(ctx: Context, a: Weight, b: Weight, elements: int, item: int) -> list[Tensor]:
    """B A as B(A(identity)), in `item` bytes. Nothing wants its gradient, but its graph (the identity, A) lives as long as it does."""
    t = ctx.t
    made = ctx.autocast or ctx.adapter
    identity = t.new("one", a.width * a.width, ctx.adapter, "eye")
    if made != ctx.adapter:
        identity = t.new("one", a.width * a.width, made, "to")
        cast_weight(t, a, made)
    t.multiply(Product("adapter", "one", 1, a.width, made, ranked="n", times=a.width))
    low = t.new("rank", a.width, made, "linear")
    if made != ctx.adapter:
        cast_weight(t, b, made)
    t.multiply(Product("adapter", "one", elements // a.width, 1, made, ranked="k", times=a.width))
    product = to_plain(t, t.new("one", elements, made, "linear"), item)
    return [identity, low, product] if t.saves else [product]


def _full_weight(t: Tape, weight: Weight, item: int, compute: int) -> Tensor | None:
    """The base layer's weight, expanded, in `item` bytes; None where it is the parameter itself."""
    if weight.quantization == "none":
        return None if weight.item == item else t.new("one", weight.width, item, "to")
    if weight.quantization == "int8":
        scaled = [t.new("one", weight.width, 4, "mul")]
        scaled.append(t.new("one", weight.width, 4, "mul"))
        return to_plain(t, scaled.pop(), item)
    return to_plain(t, t.new("one", weight.width, compute, "dequantize_4bit"), item)


def _weight_norm(ctx: Context, elements: int, out_features: int, item: int) -> Tensor:
    """|W + scaling * B A| per output feature; the CPU's autocast computes it in fp32."""
    t = ctx.t
    scaled = t.new("one", elements, item, "mul")
    changed = t.new("one", elements, item, "add")
    del scaled
    wide = to_plain(t, changed, 4) if ctx.autocast and not ctx.like_cuda else changed
    norm = t.new("one", out_features, wide.item, "linalg_vector_norm")
    return to_plain(t, norm, item)


def _divided(t: Tape, magnitude: Leaf, norm: Tensor) -> Tensor:
    """magnitude / norm; saves the norm."""
    width = norm.width
    node = t.node("div", (magnitude,), (norm,), lambda grad, _: (t.new("one", width, _MAGNITUDE_BYTES, "div"),))
    return t.new("one", width, _MAGNITUDE_BYTES, "div", node)


def _product(ctx: Context, x: Tensor, weight: Weight, full: Tensor | None, out_features: int) -> Tensor:
    """W x with the expanded weight, which is saved for the gradient of x."""
    t = ctx.t
    item = ctx.autocast or x.item
    inside = to(t, x, item)
    rows, width, elements = inside.rows, inside.width, weight.width
    read = full
    if (full.item if full else weight.item) != item:
        read = t.new("one", elements, item, "to")

    product = Product("matmul", rows, out_features, width, item)

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        t.multiply(turned(product))
        return (t.new(rows, width, item, "mm"),)

    node = t.node("linear", (inside,), (read,) if read is not None else (), apply)
    t.multiply(product)
    return t.new(rows, out_features, item, "linear", node)
