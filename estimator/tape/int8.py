"""Linear8bitLt (LLM.int8) over shadow tensors. Bytes.

Source: bitsandbytes 0.50 autograd/_functions.py (MatMul8bitLt, on CUDA; MatMul8bitFp, training on a CPU), backends/cuda/ops.py.
Columns with outliers (a handful of a model's features) are multiplied apart, in copies too small to count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ftadvise.estimator.tape.core import Storage, Tape, Tensor
from ftadvise.estimator.tape.ops import Saved, to_plain
from ftadvise.estimator.tape.work import Product


@dataclass(frozen=True, slots=True)
class Int8Kernel:
    """`expands`: multiplies by the expanded weight (training on a CPU). `fp16`: 16-bit inputs are fp16, which need no cast."""

    expands: bool = False
    fp16: bool = False


def linear_8bit(t: Tape, elements: int, x: Tensor, out: tuple[str, int], product: Product, *, autocast: int, kernel: Int8Kernel) -> Tensor:
    """x @ W.T, a tensor of shape `out`, for a weight of so many `elements`; `product` is what is multiplied, in the dtype of x.

    The function keeps its input on its context, where no checkpoint sees it: every layer's input lives until the graph goes.
    """
    item, rows, width = x.item, x.rows, x.width
    kept = t.keep(x.storage) if x.node is not None and t.grad_enabled else None

    def apply(grad: Tensor, _: Saved, _context: Storage | None = kept) -> Sequence[Tensor | None]:
        expanded = t.new("one", elements, item, "dequantize_8bit", label="workspace")
        cast = to_plain(t, grad, item)
        t.multiply(product._replace(n=product.k, k=product.n))
        gradient = t.new(rows, width, item, "matmul")
        del expanded, cast
        return (gradient,)

    made = _expanded_product(t, elements, x, out, product, autocast) if kernel.expands else _int8_product(t, x, out, product, kernel)
    made.node = t.node("linear_8bit", (x,), (), apply)
    return made


def _expanded_product(t: Tape, elements: int, x: Tensor, out: tuple[str, int], product: Product, autocast: int) -> Tensor:
    expanded = t.new("one", elements, x.item, "dequantize_8bit", label="workspace")
    item = autocast or x.item
    casts = [to_plain(t, x, item), to_plain(t, expanded, item)]
    t.multiply(product._replace(item=item))
    made = t.new(*out, item, "linear")
    del expanded, casts
    return made


def _int8_product(t: Tape, x: Tensor, out: tuple[str, int], product: Product, kernel: Int8Kernel) -> Tensor:
    """The input is quantised per row, looking for outliers in a copy without signs; the product is int32, then fp16, then x's dtype."""
    quantized = _quantized(t, x, kernel)
    t.multiply(product._replace(item=1))
    sums = t.new(*out, 4, "int8_linear_matmul", label="workspace")
    made = t.new(*out, 2, "int8_mm_dequant")
    if x.item != 2 or not kernel.fp16:
        made = t.new(*out, x.item, "to")
    del quantized, sums
    return made


def _quantized(t: Tape, x: Tensor, kernel: Int8Kernel) -> list[Tensor]:
    half = x if x.item == 2 and kernel.fp16 else t.new(x.rows, x.width, 2, "to", label="workspace")
    taken = [t.new(x.rows, 1, 4, "row_stats", label="workspace"), t.new(x.rows, x.width, 1, "int8_vectorwise_quant", label="workspace")]
    magnitudes = t.new(x.rows, x.width, 2, "abs", label="workspace")
    outliers = t.new(x.rows, x.width, 1, "ge", label="workspace")
    del magnitudes, outliers, half
    return taken
