"""PyTorch's operations over shadow tensors: what each takes, saves for its gradient, and takes in its backward pass.

Source: tools/autograd/derivatives.yaml and torch/csrc/autograd/FunctionsManual.cpp. An operation that saves its inputs does so before it
makes its output, one that saves its output afterwards; recomputation stops at that very moment. Tensors of one value per token or head
are counted where autograd keeps them; scalars never.
"""

from __future__ import annotations

from collections.abc import Sequence

from ftadvise.estimator.tape.core import Apply, Leaf, Storage, Tape, Tensor

Saved = Sequence[Storage]


def view(x: Tensor, rows: str | None = None, width: int | None = None) -> Tensor:
    """Another shape of the same storage; its gradient is a view of the gradient."""
    return Tensor(x.storage, rows or x.rows, width or x.width, x.item, x.node)


def to(t: Tape, x: Tensor, item: int) -> Tensor:
    """Cast; the tensor itself when it has this dtype. Backward: a cast of the gradient."""
    if x.item == item:
        return x
    before = x.item

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        return (to_plain(t, grad, before),)

    node = t.node("to", (x,), (), apply)
    return t.new(x.rows, x.width, item, "to", node)


def to_plain(t: Tape, x: Tensor, item: int) -> Tensor:
    """A cast outside autograd."""
    return x if x.item == item else t.new(x.rows, x.width, item, "to")


def copy(t: Tape, x: Tensor, operation: str = "contiguous") -> Tensor:
    """A contiguous copy; its gradient is passed on."""
    node = t.node(operation, (x,), (), lambda grad, _: (grad,))
    return t.new(x.rows, x.width, x.item, operation, node)


def add(t: Tape, a: Tensor, b: Tensor) -> Tensor:
    """The gradient goes to both; where a dtype differs, the engine casts it."""
    wants = (a.node is not None, b.node is not None)
    node = t.node("add", (a, b), (), lambda grad, _: (grad if wants[0] else None, grad if wants[1] else None))
    return t.new(a.rows, a.width, max(a.item, b.item), "add", node)


def scale(t: Tape, x: Tensor, operation: str = "mul", *, saved: tuple[Tensor | None, ...] = ()) -> Tensor:
    """Times a number (also negation and adding a constant that needs no gradient), which saves nothing; times a tensor: give it."""
    node = t.node(operation, (x,), saved, lambda grad, _: (t.new(grad.rows, grad.width, grad.item, operation),))
    return t.new(x.rows, x.width, x.item, operation, node)


def mul(t: Tape, a: Tensor, b: Tensor) -> Tensor:
    """Saves each factor that the other's gradient needs. `b` may be narrower (broadcast): its own gradient is summed."""
    wants = (a.node is not None, b.node is not None)
    saved = [x for x, other in ((a, wants[1]), (b, wants[0])) if other]
    rows, width, item = a.rows, a.width, max(a.item, b.item)
    shape_b = (b.rows, b.width)

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        # both in the wider dtype; the engine then sums and casts (torch/csrc/autograd/engine.cpp, validate_outputs)
        first = t.new(rows, width, item, "mul") if wants[0] else None
        second = t.new(rows, width, item, "mul") if wants[1] else None
        if second is not None and shape_b != (rows, width):
            second = t.new(*shape_b, item, "sum")
        return (first, second)

    node = t.node("mul", (a, b), saved, apply)
    return t.new(rows, width, item, "mul", node)


def pointwise(t: Tape, x: Tensor, name: str, *, saves_output: bool = False, backward_temporaries: int = 0) -> Tensor:
    """A function of each element that saves its input, or its output (tanh, sigmoid, exp); backward makes one tensor."""

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        temporaries = [t.new(grad.rows, grad.width, grad.item, name) for _ in range(backward_temporaries)]
        out = t.new(grad.rows, grad.width, grad.item, name)
        del temporaries
        return (out,)

    if not saves_output:
        node = t.node(name, (x,), (x,), apply)
        return t.new(x.rows, x.width, x.item, name, node)
    out = t.new(x.rows, x.width, x.item, name)
    out.node = t.node(name, (x,), (out,), apply)
    return out


def square(t: Tape, x: Tensor) -> Tensor:
    """x ** 2: pow_backward is grad * (2 * x.pow(1)), in one expression of C++, which keeps both temporaries until it ends."""

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        temporaries = [t.new(grad.rows, grad.width, grad.item, name) for name in ("pow", "mul")]
        out = t.new(grad.rows, grad.width, grad.item, "mul")
        del temporaries
        return (out,)

    node = t.node("pow", (x,), (x,), apply)
    return t.new(x.rows, x.width, x.item, "pow", node)


def mean(t: Tape, x: Tensor, values: int = 1) -> Tensor:
    """Over the last dimension, `values` results per row; the gradient is expanded and divided: a full tensor."""
    width = x.width
    node = t.node("mean", (x,), (), lambda grad, _: (t.new(grad.rows, width, grad.item, "div"),))
    return t.new(x.rows, values, x.item, "mean", node)


def dropout(t: Tape, x: Tensor, *, fused: bool) -> Tensor:
    """`fused` (CUDA): keeps a mask of one byte per element. Else the scaled noise in the dtype of the input."""

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        return (t.new(grad.rows, grad.width, grad.item, "dropout"),)

    if fused:
        out, mask = t.new(x.rows, x.width, x.item, "dropout"), t.new(x.rows, x.width, 1, "dropout")
        out.node = t.node("dropout", (x,), (mask,), apply)
        return out
    noise = t.new(x.rows, x.width, x.item, "bernoulli")
    node = t.node("dropout", (x,), (noise,), apply)
    return t.new(x.rows, x.width, x.item, "dropout", node)


def softmax(t: Tape, x: Tensor) -> Tensor:
    """Saves its output."""
    return pointwise(t, x, "softmax", saves_output=True)


def cat(t: Tape, parts: Sequence[Tensor]) -> Tensor:
    """A new tensor; the gradients of the parts are views of its gradient."""
    widths = [part.width for part in parts]
    wants = [part.node is not None for part in parts]

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        return [Tensor(grad.storage, grad.rows, width, grad.item) if want else None for width, want in zip(widths, wants, strict=True)]

    node = t.node("cat", parts, (), apply)
    return t.new(parts[0].rows, sum(widths), parts[0].item, "cat", node)


def narrow(t: Tape, x: Tensor, width: int, operation: str = "slice") -> Tensor:
    """A part of the last dimension, as a view; backward puts the gradient into zeros of the whole."""
    whole = x.width
    node = t.node(operation, (x,), (), lambda grad, _: (t.new(grad.rows, whole, grad.item, operation),))
    return Tensor(x.storage, x.rows, width, x.item, node)


def split(t: Tape, x: Tensor, widths: Sequence[int]) -> list[Tensor]:
    """Views of parts (split, chunk, unbind); backward joins the parts' gradients in a new tensor."""
    whole = x.width
    parts = [Tensor(x.storage, x.rows, width, x.item) for width in widths]
    with_outputs(t, "split", (x,), (), lambda grad, _: (t.new(grad.rows, whole, grad.item, "cat"),), parts)
    return parts


def with_outputs(
    t: Tape, name: str, inputs: Sequence[Tensor | Leaf | None], saved: Sequence[Tensor], apply: Apply, outputs: Sequence[Tensor]
) -> None:
    """One operation behind several outputs: their gradients are held until all have come, then it runs."""
    arrived: list[Tensor] = []

    def joined(grad: Tensor, storages: Saved) -> Sequence[Tensor | None]:
        gradients = apply(grad, storages)
        arrived.clear()
        return gradients

    def part(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        arrived.append(grad)
        # the engine would add what arrives at one node, so only the first gradient is handed on
        return (Tensor(grad.storage, grad.rows, grad.width, grad.item),) if len(arrived) == 1 else (None,)

    parent = t.node(name, inputs, saved, joined)
    if parent is None:
        return
    for output in outputs:
        output.node = t.node("part", (Tensor(output.storage, output.rows, output.width, output.item, parent),), (), part)
