"""Parts that many decoders share, in the shape of transformers' code: norms, rotary positions, MLPs. Rows are tokens."""

from __future__ import annotations

from collections.abc import Sequence

from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tensor
from ftadvise.estimator.tape.fused import can_fuse, lora_mlp, swiglu
from ftadvise.estimator.tape.ops import Saved, add, cat, mean, mul, narrow, pointwise, scale, split, square, to, to_plain


def weighted(ctx: Context, name: str, x: Tensor, *, values: int = 1) -> Tensor:
    """Times a weight per feature; a trained one saves x, and its gradient is a full tensor that is summed. The wider dtype counts."""
    t = ctx.t
    rows, width, item, out_item = x.rows, x.width, x.item, max(x.item, ctx.norm)
    features = width // values
    leaf = ctx.leaf(f"{name}.weight", features, ctx.norm) if ctx.full and ctx.training else None

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        first = to_plain(t, t.new(rows, width, grad.item, "mul"), item)
        if leaf is None:
            return (first, None)
        second = t.new(rows, width, grad.item, "mul")
        summed = t.new("one", features, ctx.norm, "sum")
        del second
        return (first, summed)

    node = t.node("mul", (x, leaf), (x if leaf is not None else None,), apply)
    return t.new(rows, width, out_item, "mul", node)


def rms_norm(ctx: Context, name: str, x: Tensor, *, values: int = 1) -> Tensor:
    """LlamaRMSNorm: works in fp32, casts, then multiplies. `values`: norms per token (heads, for a norm of queries and keys)."""
    t, item = ctx.t, x.item
    if "norm" in ctx.fused:
        return fused_norm(ctx, name, x, values=values)
    wide = to(t, x, 4)
    variance = mean(t, square(t, wide), values)
    inverse = pointwise(t, variance, "rsqrt", saves_output=True)
    normed = mul(t, wide, inverse)
    del wide, inverse
    narrowed = to(t, normed, item)
    return weighted(ctx, name, narrowed, values=values)


def olmo_norm(ctx: Context, name: str, x: Tensor, *, values: int = 1) -> Tensor:
    """Olmo2RMSNorm: multiplies by the weight in fp32, then casts."""
    t, item = ctx.t, x.item
    if "norm" in ctx.fused:
        return fused_norm(ctx, name, x, values=values)
    wide = to(t, x, 4)
    variance = mean(t, square(t, wide), values)
    inverse = pointwise(t, variance, "rsqrt", saves_output=True)
    normed = mul(t, wide, inverse)
    del wide, inverse, variance
    return to(t, weighted(ctx, name, normed, values=values), item)


def gemma_norm(ctx: Context, name: str, x: Tensor, *, values: int = 1) -> Tensor:
    """GemmaRMSNorm: multiplies in fp32, then casts. `values`: norms per token."""
    t, item = ctx.t, x.item
    if "norm" in ctx.fused:
        return fused_norm(ctx, name, x, values=values)
    wide = to(t, x, 4)
    variance = mean(t, square(t, wide), values)
    inverse = pointwise(t, variance, "rsqrt", saves_output=True)
    normed = mul(t, wide, inverse)
    del wide, inverse, variance
    output = _times_one_more(ctx, name, normed, values)
    del normed
    return to(t, output, item)


def _times_one_more(ctx: Context, name: str, x: Tensor, values: int) -> Tensor:
    """x * (1 + weight.float()): the sum is a tensor that is saved."""
    t, rows, width, features = ctx.t, x.rows, x.width, x.width // values
    leaf = ctx.leaf(f"{name}.weight", features, ctx.norm) if ctx.full and ctx.training else None
    factor = t.new("one", features, 4, "add")

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        first = t.new(rows, width, 4, "mul")
        if leaf is None:
            return (first, None)
        second = t.new(rows, width, 4, "mul")
        summed = t.new("one", features, 4, "sum")
        del second
        return (first, to_plain(t, summed, ctx.norm))

    saved = [each for each, needed in ((x, leaf is not None), (factor, x.node is not None)) if needed]
    node = t.node("mul", (x, leaf), saved, apply)
    return t.new(rows, width, 4, "mul", node)


def fused_norm(ctx: Context, name: str, x: Tensor, *, values: int = 1) -> Tensor:
    """One kernel (Liger, Unsloth, torch's rms_norm): saves its input and one fp32 scale per norm."""
    t, rows, width = ctx.t, x.rows, x.width
    leaf = ctx.leaf(f"{name}.weight", width, ctx.norm) if ctx.full and ctx.training else None

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        weight_gradient = t.new("one", width, ctx.norm, "norm_backward") if leaf is not None else None
        return (t.new(rows, width, grad.item, "norm_backward"), weight_gradient)

    out = t.new(rows, width, x.item, "norm")
    out.node = t.node("norm", (x, leaf), (x, t.new(rows, values, 4, "rstd")), apply)
    return out


def layer_norm(ctx: Context, name: str, x: Tensor, *, affine: bool = True) -> Tensor:
    """native_layer_norm: saves its input, mean and scale. CUDA's autocast runs it in fp32, and its result stays fp32."""
    t = ctx.t
    if ctx.autocast and ctx.like_cuda:
        x = to(t, x, 4)
    rows, width, item = x.rows, x.width, x.item
    trained = affine and ctx.full and ctx.training
    weight = ctx.leaf(f"{name}.weight", width, ctx.norm) if trained else None
    bias = ctx.leaf(f"{name}.bias", width, ctx.norm) if trained else None

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        small = [t.new("one", width, ctx.norm, "sum") if leaf is not None else None for leaf in (weight, bias)]
        return (t.new(rows, width, item, "layer_norm_backward"), *small)

    out = t.new(rows, width, item, "layer_norm")
    out.node = t.node("layer_norm", (x, weight, bias), (x, t.new(rows, 2, 4, "mean_rstd")), apply)
    return out


def norm(ctx: Context, name: str, x: Tensor) -> Tensor:
    """The model's kind of norm."""
    return rms_norm(ctx, name, x) if ctx.spec.norm == "rmsnorm" else layer_norm(ctx, name, x)


def rotate(ctx: Context, x: Tensor, *, tables: Sequence[Tensor] | None = None) -> Tensor:
    """x * cos + rotate_half(x) * sin; cos and sin belong to the model and are shared by all layers, or are this layer's `tables`."""
    t = ctx.t
    if "rope" in ctx.fused:
        node = t.node("rope", (x,), (), lambda grad, _: (grad,))
        return Tensor(x.storage, x.rows, x.width, x.item, node)
    cos, sin = tables or (None, None)
    straight = scale(t, x, saved=(cos,))
    turned = scale(t, rotate_half(ctx, x), saved=(sin,))
    return add(t, straight, turned)


def rotate_half(ctx: Context, x: Tensor) -> Tensor:
    """cat(-second half, first half), or the same of neighbours."""
    t = ctx.t
    first, second = narrow(t, x, x.width // 2), narrow(t, x, x.width // 2)
    return cat(t, [scale(t, second, "neg"), first])


def gated_mlp(ctx: Context, x: Tensor, *, gate: str, up: str, down: str, width: int, act: str = "silu", bias: bool = False) -> Tensor:
    """down(act(gate(x)) * up(x))."""
    t = ctx.t
    if can_fuse(ctx, (gate, up, down)):
        return lora_mlp(ctx, x, gate=gate, up=up, down=down, width=width)

    def inner() -> Tensor:
        if "mlp" in ctx.fused:
            return swiglu(ctx, ctx.linear(gate, x, width, bias=bias), ctx.linear(up, x, width, bias=bias))
        activated = activation(ctx, ctx.linear(gate, x, width, bias=bias), act)
        other = ctx.linear(up, x, width, bias=bias)
        return mul(t, activated, other)

    return ctx.linear(down, inner(), ctx.spec.hidden_size, bias=bias)


def fused_gated_mlp(ctx: Context, x: Tensor, *, gate_up: str, down: str, width: int, act: str = "silu", bias: bool = False) -> Tensor:
    """One projection to twice the width, split in two (GLM, Phi-3). The name of the gate keeps the projection until the end."""
    t = ctx.t
    gate, up = split(t, ctx.linear(gate_up, x, 2 * width, bias=bias), (width, width))
    inner = mul(t, up, activation(ctx, gate, act))
    del up
    return ctx.linear(down, inner, ctx.spec.hidden_size, bias=bias)


def plain_mlp(ctx: Context, x: Tensor, *, up: str, down: str, width: int, act: str = "gelu", bias: bool = True) -> Tensor:
    """down(act(up(x)))."""
    return ctx.linear(down, activation(ctx, ctx.linear(up, x, width, bias=bias), act), ctx.spec.hidden_size, bias=bias)


def activation(ctx: Context, x: Tensor, act: str) -> Tensor:
    """silu, gelu and relu are one kernel; "gelu_new" is written out in transformers (NewGELUActivation)."""
    t = ctx.t
    if act == "relu":
        return pointwise(t, x, "relu", saves_output=True)
    if act == "relu2":
        return square(t, pointwise(t, x, "relu", saves_output=True))
    if act != "gelu_new":
        return pointwise(t, x, act)
    half = scale(t, x)
    cube = scale(t, _cubed(ctx, x))
    inner = add(t, x, cube)
    del cube
    inner = scale(t, inner)
    tanh = pointwise(t, inner, "tanh", saves_output=True)
    del inner
    one_more = scale(t, tanh, "add")
    del tanh
    return mul(t, half, one_more)


def _cubed(ctx: Context, x: Tensor) -> Tensor:
    """x ** 3, which CUDA's autocast runs in fp32."""
    base = to(ctx.t, x, 4) if ctx.autocast and ctx.like_cuda else x
    return pointwise(ctx.t, base, "pow", backward_temporaries=2)


__all__ = [
    "activation",
    "fused_gated_mlp",
    "gated_mlp",
    "gemma_norm",
    "layer_norm",
    "norm",
    "olmo_norm",
    "plain_mlp",
    "rms_norm",
    "rotate",
    "rotate_half",
    "to_plain",
    "weighted",
]
