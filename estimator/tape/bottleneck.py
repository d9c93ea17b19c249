"""Bottleneck adapters: y + up(relu(down(y))) behind the last projection of every attention and MLP block.

Source: Houlsby et al. 2019, arXiv 1902.00751, figure 2. PEFT has none; estimator/bottleneck_tuner.py is what the runner trains.
"""

from __future__ import annotations

from ftadvise.estimator.peft_settings import LAST_PROJECTIONS
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Leaf, Tensor
from ftadvise.estimator.tape.linear import Weight, linear
from ftadvise.estimator.tape.ops import add, pointwise, to


def bottleneck_linear(ctx: Context, name: str, x: Tensor, weight: Weight, out_features: int, bias: Leaf | None) -> Tensor:
    """A linear layer, and the adapter behind it where it is a block's last."""
    t = ctx.t
    result = linear(t, weight, x, (x.rows, out_features), autocast=ctx.autocast, bias=bias)
    if name.rsplit(".", 1)[-1] not in LAST_PROJECTIONS:
        return result
    return add(t, result, to(t, _bottleneck(ctx, name, to(t, result, ctx.adapter)), result.item))


def _bottleneck(ctx: Context, name: str, x: Tensor) -> Tensor:
    t, item = ctx.t, ctx.adapter
    down, up = f"{name}.adapter_down", f"{name}.adapter_up"
    narrow = Weight(down, x.width, item, "rank", leaf=ctx.leaf(down, x.width, item, "rank"))
    wide = Weight(up, x.width, item, "rank", leaf=ctx.leaf(up, x.width, item, "rank"))
    low = linear(t, narrow, x, (f"{x.rows}*rank", 1), autocast=ctx.autocast, bias=ctx.leaf(f"{down}.bias", 1, item, "rank"))
    low = pointwise(t, low, "relu", saves_output=True)
    return linear(t, wide, low, (x.rows, x.width), autocast=ctx.autocast, bias=ctx.leaf(f"{up}.bias", x.width, item))
