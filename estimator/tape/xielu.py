"""Apertus's MLP: xIELU without its CUDA package, as transformers writes it out.

Source: transformers 5.23 activations.py (XIELUActivation._xielu_python). CUDA's autocast runs softplus and expm1 in fp32, and with them the
rest; the slope of the positive part is a tensor, so that its product with x is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tensor
from ftadvise.estimator.tape.ops import Saved, add, mul, pointwise, scale, to
from ftadvise.estimator.tape.positions import times_wide


def xielu_mlp(ctx: Context, x: Tensor) -> Tensor:
    """ApertusMLP."""
    spec = ctx.spec
    inner = xielu(ctx, ctx.linear("mlp.up_proj", x, spec.intermediate_size, bias=spec.mlp_bias))
    return ctx.linear("mlp.down_proj", inner, spec.hidden_size, bias=spec.mlp_bias)


def xielu(ctx: Context, x: Tensor) -> Tensor:
    """where(x > 0, alpha_p x x + beta x, (expm1(min(x, eps)) - x) alpha_n + beta x)."""
    t = ctx.t
    positive = t.new(x.rows, x.width, 1, "gt")
    above = _above(ctx, x)
    below = _below(ctx, x)

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        return [t.new(grad.rows, grad.width, grad.item, "where") for _ in range(2)]

    node = t.node("where", (above, below), (positive,), apply)
    return t.new(x.rows, x.width, max(above.item, below.item), "where", node)


def _wide(ctx: Context) -> bool:
    return bool(ctx.autocast) and ctx.like_cuda


def _above(ctx: Context, x: Tensor) -> Tensor:
    t = ctx.t
    scaled = times_wide(t, x) if _wide(ctx) else scale(t, x, saved=(x if ctx.full else None,))
    product = mul(t, scaled, x)
    del scaled
    return add(t, product, scale(t, x))


def _below(ctx: Context, x: Tensor) -> Tensor:
    t = ctx.t
    difference = add(t, _expm1(ctx, x), x)
    scaled = scale(t, difference, saved=(difference if ctx.full else None,))
    del difference
    return add(t, scaled, scale(t, x))


def _expm1(ctx: Context, x: Tensor) -> Tensor:
    smallest = pointwise(ctx.t, x, "minimum")
    return pointwise(ctx.t, to(ctx.t, smallest, 4) if _wide(ctx) else smallest, "expm1", saves_output=True)
