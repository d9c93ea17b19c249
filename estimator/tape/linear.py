"""Linear layers over shadow tensors: frozen, trained, quantised; and how autocast casts what they read. Bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ftadvise.estimator.tape.core import Leaf, Storage, Tape, Tensor
from ftadvise.estimator.tape.int8 import Int8Kernel, linear_8bit
from ftadvise.estimator.tape.ops import Saved, to, to_plain
from ftadvise.estimator.tape.work import Kind, Product

Shape = tuple[str, int]
"""Rows (a quantity's name) and width."""


@dataclass(frozen=True, slots=True)
class Int4Kernel:
    """`keeps_input`: on the function's context, where no checkpoint sees it. `through_fp16`: the weight is expanded to fp16, then cast."""

    keeps_input: bool = False
    through_fp16: bool = False


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter of one layer: `rows` x `width` elements of `item` bytes ("one", "rank", ...).

    `quantization` is "none", "nf4", "fp4" (then `int4` says how) or "int8" (`int8`); `leaf` says where its gradient arrives when it is
    trained.
    """

    name: str
    width: int
    item: int
    rows: str = "one"
    quantization: str = "none"
    leaf: Leaf | None = None
    routed: tuple[int, int, int] = (1, 1, 1)
    """(a, b, c): a of every b tokens come here, whose input is so much narrower, to a weight that stands for some of c equal ones."""
    int8: Int8Kernel = field(default_factory=Int8Kernel)
    int4: Int4Kernel = field(default_factory=Int4Kernel)


def cast_weight(t: Tape, weight: Weight, item: int) -> Tensor:
    """The weight in `item` bytes per element as a product reads it. A trained one's copy is cached until autocast ends.

    Source: aten/src/ATen/autocast_mode.cpp (cached_cast: only leaves that require a gradient are cached).
    """
    if weight.leaf is None:
        return t.new(weight.rows, weight.width, item, "to", label="workspace")
    cached = t.autocast_cache.get(id(weight.leaf))
    if cached is None:
        before = weight.item
        node = t.node("to", (weight.leaf,), (), lambda grad, _: (to_plain(t, grad, before),))
        cached = t.new(weight.rows, weight.width, item, "to", node, label="workspace")
        t.autocast_cache[id(weight.leaf)] = cached
    return cached


def linear(t: Tape, weight: Weight, x: Tensor, out: Shape, *, autocast: int = 0, bias: Leaf | None = None) -> Tensor:
    """x @ W.T, a tensor of shape `out`, in `autocast` bytes (0: the dtype of x).

    Backward: the gradient of x when it is wanted; the gradient of W and of the bias when they are trained.
    """
    if weight.quantization in ("nf4", "fp4"):
        return _linear_4bit(t, weight, x, out, autocast=autocast)
    if weight.quantization == "int8":
        product = product_of(t, weight, x, out, x.item)
        return linear_8bit(t, weight.width, x, out, product, autocast=autocast, kernel=weight.int8)
    item = autocast or x.item
    x = to(t, x, item)
    edge: Leaf | Tensor | None = weight.leaf
    copy: Tensor | None = None
    if weight.item != item:
        copy = cast_weight(t, weight, item)
        edge = copy if weight.leaf is not None else None
    rows, width = x.rows, x.width
    wants_x, wants_weight = x.node is not None, weight.leaf is not None
    product = product_of(t, weight, x, out, item)

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        if wants_weight:
            t.multiply(product._replace(inner_rows=True))
        if wants_x:
            t.multiply(turned(product))
        weight_gradient = t.new(weight.rows, weight.width, item, "mm") if wants_weight else None
        x_gradient = t.new(rows, width, item, "mm") if wants_x else None
        bias_gradient = t.new("one", out[1], item, "sum") if bias is not None else None
        return (x_gradient, weight_gradient, bias_gradient)

    saved = [each for each, needed in ((x, wants_weight), (copy, wants_x)) if needed]  # no copy: the weight itself is saved
    node = t.node("linear", (x, edge, bias), saved, apply)
    t.multiply(product)
    return t.new(*out, item, "linear", node)


def product_of(t: Tape, weight: Weight, x: Tensor, out: Shape, item: int) -> Product:
    """x @ W.T: with a weight of `rank` rows, the low side of an adapter is as wide as the rank."""
    if weight.rows == "one":
        chosen, groups, weights = weight.routed
        n = max(1, out[1] * groups // chosen)
        kind: Kind = "loss" if t.label == "loss" else "matmul"
        return Product(kind, x.rows, n, max(1, weight.width // n), item, times=chosen, groups=weights, alone=weights > 1)
    if out[0].endswith("*rank"):
        return Product("adapter", x.rows, out[1], weight.width // out[1], item, ranked="n")
    return Product("adapter", out[0], out[1], 1, item, ranked="k")


def turned(product: Product) -> Product:
    """The product that gives the gradient of the input: with the weight the other way round."""
    return product._replace(n=product.k, k=product.n, ranked={"n": "k", "k": "n"}.get(product.ranked, ""))


def _linear_4bit(t: Tape, weight: Weight, x: Tensor, shape: Shape, *, autocast: int) -> Tensor:
    """Linear4bit: the input is cast to the compute dtype, the weight expanded for the product, forward and backward; saves the quantised
    weight only, and in old versions its input. The output has the dtype the input had.

    Source: bitsandbytes 0.50, 0.43.2, 0.43.1, 0.41.1 nn/modules.py (Linear4bit.forward), autograd/_functions.py (MatMul4Bit).
    """
    before, item = x.item, autocast or x.item
    inside = to(t, x, item)
    rows, width = inside.rows, inside.width
    product = product_of(t, weight, inside, shape, item)
    keeps = weight.int4.keeps_input and inside.node is not None and t.grad_enabled
    kept = t.keep(inside.storage) if keeps else None

    def apply(grad: Tensor, _: Saved, _context: Storage | None = kept) -> Sequence[Tensor | None]:
        expanded = _expanded(t, weight, item)
        t.multiply(turned(product))
        out = t.new(rows, width, grad.item, "matmul")
        del expanded
        return (out,)

    expanded = _expanded(t, weight, item)
    t.multiply(product)
    out = t.new(*shape, item, "linear")
    del expanded
    out.node = t.node("linear_4bit", (inside,), (), apply)
    return to(t, out, before)


def _expanded(t: Tape, weight: Weight, item: int) -> Tensor:
    """The weight as a product reads it, in one step or by way of fp16."""
    expanded = t.new("one", weight.width, item, "dequantize_4bit", label="workspace")
    return t.new("one", weight.width, item, "to", label="workspace") if weight.int4.through_fp16 else expanded
