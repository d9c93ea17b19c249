"""Attention kernels over shadow tensors: what each keeps and takes. Rows are tokens; scores are heads x sequences x seq_len ** 2.

Source: torch/csrc aten/native/transformers (flash and memory-efficient kernels save q, k, v, the output and one fp32 log-sum-exp per head
and token); flash-attention's backward takes fp32 accumulators of dq and one fp32 value per head and token; with grouped heads it makes
dk and dv for every query head before it sums them (flash_api.cpp, mha_bwd). The memory-efficient backward takes an fp32 accumulator of dq,
of heads padded to 64 features, or in fp32 a full product for its delta (mem_eff_attention/kernel_backward.h).
"""

from __future__ import annotations

from collections.abc import Sequence

from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tape, Tensor
from ftadvise.estimator.tape.math_attention import math_attention
from ftadvise.estimator.tape.ops import Saved, add, copy, dropout, pointwise, scale, softmax, to
from ftadvise.estimator.tape.products import packed, repeated_heads, scores, scores_of, weighted_values
from ftadvise.estimator.tape.virtual_tokens import with_prefix
from ftadvise.estimator.tape.work import Product


def attention(
    ctx: Context, q: Tensor, k: Tensor, v: Tensor, heads: int, *, kv_heads: int, softcap: bool = False, drops: bool = False,
    sliding: bool = False, heads_first: bool = False,
) -> Tensor:  # fmt: skip
    """The output of self-attention over the sequence, `heads` x value width per token. Autocast casts what the kernel reads.

    `drops`: the model drops attention weights out in training; fused CUDA kernels need nothing for it. `sliding`: the layer attends to a
    window; where the sequence is longer, SDPA gets a mask for it. `heads_first`: q was put together head by head (a concatenation), and the
    flash kernel lays its output out as q is: the caller's reshape copies it.
    """
    k, v = with_prefix(ctx, k, v)
    kernel, masked = _kernel_of(ctx, sliding=sliding, one_width=q.width // heads == v.width // kv_heads)
    if kernel == "math":
        return math_attention(ctx, q, k, v, heads, kv_heads=kv_heads, masked=masked)
    repeated = heads != kv_heads and (kernel == "eager" or (masked and kernel != "flash"))
    if repeated:
        keys, values = (repeated_heads(ctx, x, heads // kv_heads, single=kv_heads == 1) for x in (k, v))
    else:
        keys, values = k, v
    del k, v
    if ctx.autocast and kernel != "eager":
        q, keys, values = to(ctx.t, q, ctx.autocast), to(ctx.t, keys, ctx.autocast), to(ctx.t, values, ctx.autocast)
    if kernel == "eager":
        return _eager(ctx, q, keys, values, heads, softcap=softcap, drops=drops and ctx.training)
    if masked and ctx.recipe.attention == "flash_attention_2":
        return _unpadded_attention(ctx, q, keys, values, heads, grouped=heads != kv_heads and not repeated)
    output = _kernel(ctx, kernel, q, keys, values, heads, grouped=heads != kv_heads and not repeated, masked=masked, sliding=sliding)
    return copy(ctx.t, output, "clone") if heads_first and kernel == "flash" else output


def dropping_attention(ctx: Context, q: Tensor, k: Tensor, v: Tensor, heads: int, *, kv_heads: int) -> Tensor:
    """Attention with dropout of its weights, which the CPU's fused kernel cannot do (sdp_utils_cpp.cpp)."""
    if ctx.training and ctx.kernel == "cpu" and ctx.recipe.attention == "sdpa":
        k, v = with_prefix(ctx, k, v)
        return math_attention(ctx, q, k, v, heads, kv_heads=kv_heads, masked=ctx.masked, drops=True)
    return attention(ctx, q, k, v, heads, kv_heads=kv_heads, drops=True)


def _kernel_of(ctx: Context, *, sliding: bool, one_width: bool) -> tuple[str, bool]:
    """The kernel that runs here, and whether it gets a mask: flash kernels take none, and one width for keys and values.

    Source: torch aten/src/ATen/native/transformers (cuda/sdp_utils.cpp, sdp_utils_cpp.cpp); transformers masking_utils.py.
    """
    kernel, masked = ctx.kernel, ctx.masked
    if ctx.recipe.attention != "sdpa" or kernel == "eager":
        return kernel, masked
    masked = masked or (sliding and ctx.windowed)
    if kernel == "cpu":
        return (kernel if one_width else "math"), masked
    return ("efficient" if masked or (kernel == "flash" and not one_width) else kernel), masked


def _kernel(
    ctx: Context, kernel: str, q: Tensor, k: Tensor, v: Tensor, heads: int, *, grouped: bool, masked: bool, sliding: bool = False
) -> Tensor:
    t = ctx.t
    out_width = v.width * q.width // k.width if grouped else v.width
    mask = _mask(ctx, k, q.item) if masked and kernel in ("efficient", "cpu") else None
    shapes = [(x.rows, x.width, x.item) for x in (q, k, v)]
    window = ctx.spec.sliding_window or 0 if sliding and kernel == "flash" else 0
    product = Product("attention", scores_of(k), q.width, out_width, q.item, times=1 if mask is None else 2, window=window, kernel=kernel)

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        t.multiply(product._replace(kind="attention_backward"))
        scratch = []
        if kernel == "flash":
            scratch = [t.new(*shapes[0][:2], 4, "dq_accumulator", label="workspace"), t.new(q_rows, heads, 4, "softmax_d")]
            if grouped:
                scratch += [t.new(q_rows, heads * width, item, "expanded_gradient") for width in (head_k, head_v)]
        elif kernel == "efficient":
            padded = -(-head_k // 64) * 64 if item < 4 else head_k
            scratch = [t.new(q_rows, heads, 4, "delta"), t.new(q_rows, heads * padded, 4, "dq_accumulator", label="workspace")]
        gradients = [t.new(*shape, "attention_backward") for shape in shapes]
        del scratch
        return (*gradients, None) if biased else gradients

    biased = mask is not None  # the closure must not keep the mask itself
    q_rows, item, head_k = q.rows, q.item, q.width // heads
    head_v = out_width // heads
    t.multiply(product)
    out = t.new(q.rows, out_width, q.item, kernel)
    kept = [q, k, v, out, t.new(q.rows, heads, 4, "logsumexp")]
    if mask is not None:
        kept.append(mask)
    inputs = (q, k, v, mask) if mask is not None else (q, k, v)
    out.node = t.node(f"{kernel}_attention", inputs, kept, apply)
    del kept
    return out


def _unpadded_attention(ctx: Context, q: Tensor, k: Tensor, v: Tensor, heads: int, *, grouped: bool) -> Tensor:
    """The package flash-attn where lengths differ: real tokens are gathered before the kernel and put back into zeros after it.

    The batch is priced as full, so that copies are as large as their sources.
    Source: transformers 5.23 modeling_flash_attention_utils.py (_upad_input, _pad_input).
    """
    t = ctx.t
    positions = t.new(k.rows, 1, 8, "nonzero")
    keys, values = _gathered(t, k, positions), _gathered(t, v, positions)
    output = _kernel(ctx, "flash", _gathered(t, q, positions), keys, values, heads, grouped=grouped, masked=False)
    node = t.node("index_put", (output,), (positions,), lambda grad, _: (t.new(grad.rows, grad.width, grad.item, "index"),))
    return t.new(output.rows, output.width, output.item, "index_put", node)


def _gathered(t: Tape, x: Tensor, positions: Tensor) -> Tensor:
    node = t.node("index", (x,), (positions,), lambda grad, _: (t.new(grad.rows, grad.width, grad.item, "index_put"),))
    return t.new(x.rows, x.width, x.item, "index", node)


def _mask(ctx: Context, keys: Tensor, item: int) -> Tensor:
    """A boolean mask becomes an additive one of the compute dtype in each layer."""
    return ctx.t.new(scores_of(keys), 1, item, "mask")


def eager_attention(ctx: Context, q: Tensor, k: Tensor, v: Tensor, heads: int, *, drops: bool = False) -> Tensor:
    """Attention of models whose own code writes the scores out whatever the recipe says (GPT-J, GPT-Neo)."""
    return _eager(ctx, q, k, v, heads, softcap=False, drops=drops and ctx.training, upcasts=False)


def _eager(ctx: Context, q: Tensor, k: Tensor, v: Tensor, heads: int, *, softcap: bool, drops: bool, upcasts: bool = True) -> Tensor:
    """eager_attention_forward, statement by statement; autocast casts what the two products read.

    `upcasts`: the softmax is asked for in fp32; else it runs in the scores' dtype, but for CUDA's autocast. Then they become what v is.
    """
    t = ctx.t
    before, item = q.item if upcasts else v.item, ctx.autocast or q.item
    raw = scores(t, packed(ctx, to(t, q, item)), packed(ctx, to(t, k, item)), heads)
    weights = scale(t, raw)
    del raw
    if softcap:  # divided, tanh, multiplied: one statement each
        weights = scale(t, weights, "div")
        weights = pointwise(t, weights, "tanh", saves_output=True)
        weights = scale(t, weights)
    weights = add(t, weights, t.new("one", 1, ctx.hidden, "mask"))
    wide = to(t, weights, 4) if upcasts or (ctx.autocast and ctx.like_cuda) else weights
    probabilities = softmax(t, wide)
    del wide
    probabilities = to(t, probabilities, before)
    del weights  # the caller's name for the scores is bound anew only now
    if drops:
        probabilities = dropout(t, probabilities, fused=ctx.like_cuda)

    ctx.returned.append(probabilities)
    return copy(t, weighted_values(t, to(t, probabilities, item), packed(ctx, to(t, v, item)), heads))


__all__ = ["attention", "dropout", "dropping_attention", "eager_attention", "packed", "repeated_heads", "scores", "weighted_values"]
