"""The two products of attention over shadow tensors, and how their operands are laid out. Rows are tokens."""

from __future__ import annotations

from collections.abc import Sequence

from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tape, Tensor
from ftadvise.estimator.tape.ops import Saved, copy
from ftadvise.estimator.tape.work import Product


def repeated_heads(ctx: Context, x: Tensor, times: int, *, single: bool = False) -> Tensor:
    """expand + reshape copies, but for a single head, which is only seen several times; the gradient is summed over the copies."""
    t, rows, width = ctx.t, x.rows, x.width
    node = t.node("repeat_kv", (x,), (), lambda grad, _: (t.new(rows, width, grad.item, "sum"),))
    if single:
        return Tensor(x.storage, rows, width * times, x.item, node)
    return t.new(rows, width * times, x.item, "repeat_kv", node)


def scores_of(keys: Tensor) -> str:
    """What scores are counted by: every query with every key, of which a prefix adds some."""
    return "key_scores" if keys.rows == "key_tokens" else "scores"


def packed(ctx: Context, x: Tensor) -> Tensor:
    """A product of several sequences copies its operand, which counts where that is a part of a fused projection, or one head seen
    several times; one sequence's heads are multiplied where they are.
    """
    return copy(ctx.t, x) if not ctx.single_sequence and x.storage.size != x.width * x.item else x


def scores(t: Tape, q: Tensor, k: Tensor, heads: int) -> Tensor:
    """q @ k.T. Each factor is saved for the other's gradient."""
    shapes = [(x.rows, x.width, x.item) for x in (q, k)]
    product = Product("scores", scores_of(k), q.width, q.width // heads, q.item)

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        _multiply(t, product, sum(wants))
        return [t.new(*shape, "bmm") if want else None for shape, want in zip(shapes, wants, strict=True)]

    wants = q.node is not None, k.node is not None
    node = t.node("bmm", (q, k), [x for x, other in zip((q, k), reversed(wants), strict=True) if other], apply)
    t.multiply(product)
    return t.new(scores_of(k), heads, q.item, "bmm", node)


def weighted_values(t: Tape, probabilities: Tensor, v: Tensor, heads: int) -> Tensor:
    """probabilities @ v. Each factor is saved for the other's gradient."""
    rows, width, item, scores, queries = v.rows, v.width, v.item, scores_of(v), "tokens" if v.rows == "key_tokens" else v.rows

    product = Product("scores", scores, width, width // heads, item)

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        _multiply(t, product, sum(wants))
        return (t.new(scores, heads, item, "bmm") if wants[0] else None, t.new(rows, width, item, "bmm") if wants[1] else None)

    wants = probabilities.node is not None, v.node is not None
    node = t.node("bmm", (probabilities, v), [x for x, other in zip((probabilities, v), reversed(wants), strict=True) if other], apply)
    t.multiply(product)
    return t.new(queries, width, item, "bmm", node)


def _multiply(t: Tape, product: Product, times: int) -> None:
    for _ in range(times):
        t.multiply(product)
