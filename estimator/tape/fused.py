"""Fused kernels that some stacks put in place of a decoder's modules: what they save and reuse. docs/stacks.md has their sources.

mlp    SwiGLU in one kernel (Liger): saves gate and up, recomputes the product; gradients take their places
lora   base product and adapters of layers that read one tensor (Unsloth, foak, Axolotl): saves that tensor once, uncast, and what
       dropout made of it per adapter; the gradient takes its place. Of an MLP: gate and up besides, neither product nor A's outputs
"""

from __future__ import annotations

from collections.abc import Sequence

from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Leaf, Tensor
from ftadvise.estimator.tape.ops import Saved, with_outputs
from ftadvise.estimator.tape.work import Product

Projection = tuple[str, int]
"""Name and output features."""


def swiglu(ctx: Context, gate: Tensor, up: Tensor) -> Tensor:
    """act(gate) * up."""
    t, rows, width, item = ctx.t, gate.rows, gate.width, gate.item

    def apply(grad: Tensor, saved: Saved) -> Sequence[Tensor | None]:
        return [Tensor(storage, rows, width, item) for storage in saved]

    node = t.node("swiglu", (gate, up), (gate, up), apply)
    return t.new(rows, width, item, "swiglu", node)


def can_fuse(ctx: Context, names: Sequence[str]) -> bool:
    """The kernels need an adapter on each of the layers that they replace."""
    return "lora" in ctx.fused and ctx.recipe.method == "lora" and all(ctx.targets(name) for name in names)


def lora_projections(ctx: Context, x: Tensor, projections: Sequence[Projection], *, in_place: bool) -> list[Tensor]:
    """Layers that read one tensor. `in_place`: the gradient of x takes the place of x."""
    t, rows, width, item = ctx.t, x.rows, x.width, x.item
    leaves = [leaf for name, out in projections for leaf in _adapter_leaves(ctx, name, width, out)]
    saved = [x, *_dropped(ctx, x, len(projections))]
    outputs = [_product(ctx, name, x, out) for name, out in projections]

    def apply(grad: Tensor, kept: Saved) -> Sequence[Tensor | None]:
        gradients = _adapter_gradients(ctx, projections, width)
        for name, out in projections:
            _dequantise(ctx, name, width, out)
            _multiply_back(ctx, rows, width, out, item)
        whole = Tensor(kept[0], rows, width, item) if in_place else t.new(rows, width, item, "lora_backward")
        return [whole, *gradients]

    with_outputs(t, "fused_lora", (x, *leaves), saved, apply, outputs)
    return outputs


def lora_mlp(ctx: Context, x: Tensor, *, gate: str, up: str, down: str, width: int) -> Tensor:
    """A whole gated MLP as one operation."""
    t, hidden, item, rows = ctx.t, ctx.spec.hidden_size, x.item, x.rows
    inputs: list[Projection] = [(gate, width), (up, width)]
    leaves = [leaf for name, out in inputs for leaf in _adapter_leaves(ctx, name, x.width, out)]
    leaves += _adapter_leaves(ctx, down, width, hidden)
    opened = _product(ctx, gate, x, width)
    raised = _product(ctx, up, x, width)
    product = t.new(rows, width, item, "swiglu")
    out = _product(ctx, down, product, hidden)
    del product
    in_features = x.width

    def apply(grad: Tensor, kept: Saved) -> Sequence[Tensor | None]:
        of_product = t.new(rows, width, item, "lora_backward")
        _dequantise(ctx, down, width, hidden)
        _multiply_back(ctx, rows, width, hidden, item)
        gradients = [*_adapter_gradients(ctx, inputs, in_features), *_adapter_gradients(ctx, [(down, hidden)], width)]
        for name, features in inputs:
            _dequantise(ctx, name, in_features, features)
            _multiply_back(ctx, rows, in_features, features, item)
        for _ in range(3):  # the product again, and the gradients of gate and up, in place
            t.in_place.append((len(t.events), rows, width * item))
        del of_product
        return [Tensor(kept[0], rows, in_features, item), *gradients]

    out.node = t.node("fused_lora_mlp", (x, *leaves), (x, opened, raised, *_dropped(ctx, x, len(inputs))), apply)
    return out


def _adapter_leaves(ctx: Context, name: str, in_features: int, out_features: int) -> list[Leaf]:
    return [
        ctx.leaf(f"{name}.lora_A", in_features, ctx.adapter, "rank"),
        ctx.leaf(f"{name}.lora_B", out_features, ctx.adapter, "rank"),
    ]


def _adapter_gradients(ctx: Context, projections: Sequence[Projection], in_features: int) -> list[Tensor]:
    return [ctx.t.new("rank", size, ctx.adapter, "lora_backward") for _, out in projections for size in (in_features, out)]


def _dropped(ctx: Context, x: Tensor, count: int) -> list[Tensor]:
    """foak and Axolotl keep what dropout made of the input, for each adapter."""
    if not (ctx.recipe.dropout and ctx.training):
        return []
    return [ctx.t.new(x.rows, x.width, x.item, "dropout") for _ in range(count)]


def _product(ctx: Context, name: str, x: Tensor, out_features: int) -> Tensor:
    """The frozen product and A's output; a quantised weight is expanded meanwhile."""
    ctx.note(name, x.width, out_features, adapted=True)
    expanded = _expanded(ctx, name, x.width, out_features)
    for product in _products(x.rows, x.width, out_features, x.item):
        ctx.t.multiply(product)
    low = ctx.t.new(f"{x.rows}*rank", 1, x.item, "lora_A")
    out = ctx.t.new(x.rows, out_features, x.item, "linear")
    del expanded, low
    return out


def _products(rows: str, in_features: int, out_features: int, item: int) -> tuple[Product, Product, Product]:
    """W x, A x and B (A x), which is added in the same operation."""
    return (
        Product("matmul", rows, out_features, in_features, item),
        Product("adapter", rows, 1, in_features, item, ranked="n"),
        Product("adapter", rows, out_features, 1, item, ranked="k"),
    )


def _multiply_back(ctx: Context, rows: str, in_features: int, out_features: int, item: int) -> None:
    """The gradient of x through W, A and B, and those of A and B, for which A x is made again."""
    base, a, b = _products(rows, in_features, out_features, item)
    for product in (base._replace(n=in_features, k=out_features), a, a._replace(inner_rows=True), b._replace(inner_rows=True)):
        ctx.t.multiply(product)
    ctx.t.multiply(Product("adapter", rows, in_features, 1, item, ranked="k"))
    ctx.t.multiply(Product("adapter", rows, 1, out_features, item, ranked="n"))


def _dequantise(ctx: Context, name: str, in_features: int, out_features: int) -> None:
    expanded = _expanded(ctx, name, in_features, out_features)
    del expanded


def _expanded(ctx: Context, name: str, in_features: int, out_features: int) -> Tensor | None:
    if not ctx.is_quantized(name):
        return None
    return ctx.t.new("one", in_features * out_features, ctx.product, "dequantize", label="workspace")
