"""Experts as modules of linear layers, one after the other, as transformers 4 ran them: quantisers and adapters reach them.

Source: transformers 4.48 models/mixtral/modeling_mixtral.py (MixtralSparseMoeBlock): an expert's tokens are picked, pass a gated MLP, are
weighed and added to the output in place. Tokens are taken as evenly spread. What is left out: adapters on experts are counted as
parameters, but not in the activations.
"""

from __future__ import annotations

from collections.abc import Sequence

from ftadvise.estimator.tape.blocks import activation
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tensor
from ftadvise.estimator.tape.linear import Weight, linear
from ftadvise.estimator.tape.ops import Saved, mul

_WRITTEN_OUT = 8
"""More experts than this are walked in groups of equal ones: what they save is the same. Work is counted for each of them."""
_NAMES = {"mixtral": ("w1", "w3", "w2")}


def experts_one_by_one(ctx: Context, hidden: Tensor, experts: int, chosen: int, inner: int, *, act: str) -> Tensor:
    """The sum of what the chosen experts make of each token."""
    t, width, item = ctx.t, hidden.width, hidden.item
    names = [f"mlp.experts.{name}" for name in _NAMES.get(ctx.spec.model_type, ("gate_proj", "up_proj", "down_proj"))]
    for name, (inputs, outputs) in zip(names, ((width, inner), (width, inner), (inner, width)), strict=True):
        ctx.note(name, inputs, outputs, adapted=False, count=experts)
        _count_adapter(ctx, name, inputs, outputs, experts)
    groups = min(experts, _WRITTEN_OUT)
    routed = chosen, groups, experts
    total = t.new(hidden.rows, width, item, "zeros")
    with t.scope("experts"):
        t.copies[t.module] = experts // groups
        for _ in range(groups):
            part = _part(ctx, hidden, chosen, groups)
            gate = _product(ctx, names[0], part, width * inner, inner * chosen // groups, routed)
            up = _product(ctx, names[1], part, width * inner, inner * chosen // groups, routed)
            product = mul(t, activation(ctx, gate, act), up)
            del gate, up, part
            output = _product(ctx, names[2], product, width * inner, width * chosen // groups, routed)
            del product
            total = _added(ctx, total, output)
    return total


def _part(ctx: Context, hidden: Tensor, chosen: int, groups: int) -> Tensor:
    """The tokens of one group; the gradient goes into zeros in the shape of all."""
    t, rows, width = ctx.t, hidden.rows, hidden.width
    node = t.node("index", (hidden,), (), lambda grad, _: (t.new(rows, width, grad.item, "index_backward"),))
    return t.new(rows, width * chosen // groups, hidden.item, "index", node)


def _product(ctx: Context, name: str, x: Tensor, elements: int, out_width: int, routed: tuple[int, int, int]) -> Tensor:
    quantization = ctx.recipe.quantization if ctx.is_quantized(name) else "none"
    leaf = ctx.leaf(f"{name}.weight", elements, ctx.parameter) if ctx.full and ctx.training else None
    weight = Weight(name, elements, ctx.parameter, quantization=quantization, leaf=leaf, routed=routed)
    return linear(ctx.t, weight, x, (x.rows, out_width), autocast=ctx.autocast)


def _added(ctx: Context, total: Tensor, output: Tensor) -> Tensor:
    """index_add_ in place: the gradient of the part is picked from that of the sum."""
    t, rows, width, item = ctx.t, output.rows, output.width, output.item

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        return (grad, t.new(rows, width, item, "index_select"))

    node = t.node("index_add", (total, output), (), apply)
    return Tensor(total.storage, total.rows, total.width, total.item, node or total.node)


def _count_adapter(ctx: Context, name: str, inputs: int, outputs: int, experts: int) -> None:
    if ctx.recipe.method == "lora" and ctx.training and ctx.targets(name):
        ctx.leaf(f"{name}.lora_A", inputs * experts, ctx.adapter, "rank")
        ctx.leaf(f"{name}.lora_B", outputs * experts, ctx.adapter, "rank")
