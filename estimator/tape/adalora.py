"""AdaLoRA as PEFT computes it: y = W x + B diag(E) A dropout(x) * scaling / rank, and the loss's orthogonality penalty.

Source: peft 0.21 tuners/adalora/layer.py (SVDLinear.forward), bnb.py (SVDLinear4bit, SVDLinear8bitLt), model.py (AdaLoraModel.forward).
The ranks start above the target and are masked, never shrunk, so memory is that of the first step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Leaf, Node, Tape, Tensor
from ftadvise.estimator.tape.linear import Weight, product_of, turned
from ftadvise.estimator.tape.lora import base_layer, converts, dropped, pair
from ftadvise.estimator.tape.ops import Saved, add, scale, to, to_plain


def adalora_linear(ctx: Context, name: str, x: Tensor, weight: Weight, out_features: int, bias: Leaf | None) -> Tensor:
    """One adapted layer. The sum goes into the base layer's output, except on an int8 base."""
    t, quantization = ctx.t, weight.quantization
    result = base_layer(ctx, x, weight, out_features, bias)
    inside = x
    if converts(ctx, weight):
        inside = to(t, x, 4 if quantization == "int8" else ctx.adapter)
    if quantization == "none":
        return _add_in_place(t, result, _divided(ctx, name, scale(t, _low_rank(ctx, name, inside, weight, out_features)), weight))
    output = _low_rank(ctx, name, inside, weight, out_features)
    if converts(ctx, weight):
        output = to(t, output, result.item)
    divided = _divided(ctx, name, scale(t, output), weight)
    del output
    return add(t, result, divided) if quantization == "int8" else _add_in_place(t, result, divided)


def _low_rank(ctx: Context, name: str, x: Tensor, weight: Weight, out_features: int) -> Tensor:
    t = ctx.t
    a, b = pair(ctx, name, weight, out_features)
    values = ctx.leaf(f"{name}.lora_E", 1, ctx.adapter, "rank")
    shaken = dropped(ctx, x)
    vectors = _scaled_vectors(t, a, values)
    low = _matmul(t, shaken, vectors, (f"{x.rows}*rank", 1), ctx.autocast)
    del shaken, vectors
    # a transposed view of B: autocast casts it without caching the copy
    return _matmul(t, low, _transposed(t, b, ctx.autocast or b.item), (x.rows, out_features), ctx.autocast)


def _scaled_vectors(t: Tape, a: Weight, values: Leaf) -> Tensor:
    """A * E."""
    width, item = a.width, a.item

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        vectors, expanded = t.new("rank", width, item, "mul"), t.new("rank", width, item, "mul")
        summed = t.new("rank", 1, item, "sum")
        del expanded
        return (vectors, summed)

    return t.new("rank", width, item, "mul", t.node("mul", (a.leaf, values), (), apply))


def _transposed(t: Tape, b: Weight, item: int) -> Tensor | Weight:
    if b.item == item:
        return b
    before = b.item
    node = t.node("to", (b.leaf,), (), lambda grad, _: (to_plain(t, grad, before),))
    return t.new(b.rows, b.width, item, "to", node)


def _matmul(t: Tape, x: Tensor, matrix: Tensor | Weight, out: tuple[str, int], autocast: int) -> Tensor:
    """x @ matrix; saves both, where the matrix is no parameter itself."""
    item = autocast or x.item
    inside = to(t, x, item)
    factor = to(t, matrix, item) if isinstance(matrix, Tensor) else None
    shape, rows, width = (inside.rows, inside.width), matrix.rows, matrix.width
    wants_x = inside.node is not None
    product = product_of(t, Weight("", width, item, rows), inside, out, item)

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        if wants_x:
            t.multiply(turned(product))
        t.multiply(product._replace(inner_rows=True))
        return (t.new(*shape, item, "mm") if wants_x else None, t.new(rows, width, item, "mm"))

    saved = [inside, factor] if wants_x and factor is not None else [inside]
    edge = matrix.leaf if isinstance(matrix, Weight) else factor
    t.multiply(product)
    return t.new(*out, item, "mm", t.node("matmul", (inside, edge), saved, apply))


def _divided(ctx: Context, name: str, x: Tensor, weight: Weight) -> Tensor:
    """x / rank, a tensor of one element. PEFT trains it, by accident, where it had to move or cast it; else it stays fp32. The runner
    makes it a constant in the adapter's dtype.

    Source: peft 0.21 tuners/tuners_utils.py (_move_adapter_to_device_of_base_layer: what `to` returns becomes a new parameter).
    """
    t, rows, width, before = ctx.t, x.rows, x.width, x.item
    trained = not ctx.constant_ranks and (ctx.like_cuda or (weight.item != 4 and weight.quantization != "int8"))
    item = max(before, ctx.adapter if trained or ctx.constant_ranks else 4)
    leaf = ctx.leaf(f"{name}.ranknum", 1, ctx.adapter) if trained else None

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        gradient = t.new(rows, width, item, "div")
        if trained:
            negative, first = t.new(rows, width, item, "neg"), t.new(rows, width, item, "div")
            second = t.new(rows, width, item, "div")
            del first
            product = t.new(rows, width, item, "mul")
            del negative, second, product
        return (to_plain(t, gradient, before), t.new("one", 1, ctx.adapter, "sum") if trained else None)

    node = t.node("div", (x, leaf), (x,) if trained else (), apply)
    return t.new(rows, width, item, "div", node)


def _add_in_place(t: Tape, result: Tensor, x: Tensor) -> Tensor:
    items, wants = (result.item, x.item), (result.node is not None, x.node is not None)

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        return (to_plain(t, grad, items[0]) if wants[0] else None, to_plain(t, grad, items[1]) if wants[1] else None)

    return Tensor(result.storage, result.rows, result.width, result.item, t.node("add_", (result, x), (), apply))


def orthogonality_penalty(ctx: Context, loss: Tensor, logits: Tensor | None, times: Mapping[int, int], *, inside: bool) -> Tensor:
    """The loss plus |P Pt - I| of every A and B; backward gives each its gradient at once.

    Where the model returns the loss, it adds the penalty under autocast, which copies each parameter twice; the copies live until the
    backward pass begins. Where the trainer computes the loss, the runner adds it outside (runner/rank_schedule.py).

    Args:
        inside: the model adds it.
        times: how many layers each recorded one stands for.
    """
    t, item = ctx.t, (ctx.autocast if inside else 0) or ctx.adapter
    terms = [
        _penalty(t, leaf, ctx.trained[key].width * times.get(key[0], 1), times.get(key[0], 1), ctx.adapter, item)
        for key, leaf in ctx.leaves.items()
        if key[1].endswith((".lora_A", ".lora_B"))
    ]
    if logits is not None:
        to_plain(t, logits, 4)  # accelerate returns a model's output in fp32 (utils/operations.py, ConvertOutputsToFp32)
    wanted: list[Node | None] = [loss.node, *terms]
    inputs = [Tensor(loss.storage, "one", 1, 4, node) for node in wanted]
    node = t.node("add", inputs, (), lambda grad, _: (grad,) * len(wanted))
    return Tensor(loss.storage, loss.rows, loss.width, loss.item, node)


def _penalty(t: Tape, leaf: Leaf, width: int, times: int, before: int, item: int) -> Node | None:
    copies = [t.new("rank", width, item, "to"), t.new("rank", width, item, "to")] if item != before else []
    difference = t.new("rank*rank", times, item, "sub")

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        return (t.new("rank", width, before, "add"),)

    return t.node("norm", (leaf,), (*copies, difference), apply)
