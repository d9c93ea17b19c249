"""Positions beyond Llama's: rotary ones over a part of each head, and learned tables. Rows are tokens.

Source: transformers 5.23, apply_rotary_pos_emb of models/glm, gpt_neox, phi3, phi; the embeddings of models/gpt2 and models/opt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ftadvise.estimator.tape.blocks import rotate, rotate_half
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tape, Tensor
from ftadvise.estimator.tape.ops import Saved, add, cat, dropout, narrow, to


def partly_rotated(ctx: Context, q: Tensor, k: Tensor, share: float, *, interleaved: bool = False) -> tuple[Tensor, Tensor]:
    """Queries and keys with the first `share` of each head rotated (GLM, GPT-NeoX, Phi-3, ...), then put together again.

    `interleaved` (GLM): each layer repeats its cos and sin for neighbouring pairs, and keeps them.
    """
    q_embed, k_embed, _ = partly_rotated_named(ctx, q, k, share, interleaved=interleaved)
    return q_embed, k_embed


def partly_rotated_named(
    ctx: Context, q: Tensor, k: Tensor, share: float, *, interleaved: bool = False
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """The same, and the parts they were made of, for callers that name them to the end of their attention (Phi, StableLM)."""
    t = ctx.t
    tables = None
    if interleaved:
        rotary = int(ctx.spec.head_dim * share)
        tables = [t.new("seq", rotary, ctx.hidden, "repeat_interleave") for _ in range(2)]
    q_rot, q_pass = _halves(ctx, q, share)
    k_rot, k_pass = _halves(ctx, k, share)
    q_turned = rotate(ctx, q_rot, tables=tables)
    k_turned = rotate(ctx, k_rot, tables=tables)
    q_embed = cat(t, [q_turned, q_pass])
    return q_embed, cat(t, [k_turned, k_pass]), (q_turned, k_turned, q_pass, k_pass)


def _halves(ctx: Context, x: Tensor, share: float) -> tuple[Tensor, Tensor]:
    turned = int(x.width * share)
    return narrow(ctx.t, x, turned), narrow(ctx.t, x, x.width - turned)


def rotated(ctx: Context, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys rotated whole (Llama); the caller's own ones live until both are there."""
    q_embed = rotate(ctx, q)
    return q_embed, rotate(ctx, k)


def rotated_wide(ctx: Context, q: Tensor, k: Tensor, *, upcasts: bool = False) -> tuple[Tensor, Tensor]:
    """Rotated in fp32, because cos and sin are fp32 (OLMo) or because queries and keys are cast first (`upcasts`: Cohere)."""
    t, item = ctx.t, q.item
    wide_q, wide_k = (to(t, q, 4), to(t, k, 4)) if upcasts else (q, k)
    q_embed = _turned_wide(ctx, wide_q)
    k_embed = _turned_wide(ctx, wide_k)
    q_back = to(t, q_embed, item)
    return q_back, to(t, k_embed, item)


def _turned_wide(ctx: Context, x: Tensor) -> Tensor:
    t = ctx.t
    straight = times_wide(t, x)
    return add(t, straight, times_wide(t, rotate_half(ctx, x)))


def rotated_pairs_wide(ctx: Context, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """ERNIE 4.5: each product casts its factor to fp32; every layer repeats cos and sin for neighbouring pairs, and keeps them."""
    t, item = ctx.t, q.item
    tables = [t.new("seq", ctx.spec.head_dim, 4, "repeat_interleave") for _ in range(2)]

    def turned(x: Tensor) -> Tensor:
        straight = times_wide(t, to(t, x, 4), tables[0])
        return add(t, straight, times_wide(t, to(t, rotate_half(ctx, x), 4), tables[1]))

    q_embed = turned(q)
    k_embed = turned(k)
    q_back = to(t, q_embed, item)
    return q_back, to(t, k_embed, item)


def times_wide(t: Tape, x: Tensor, factor: Tensor | None = None) -> Tensor:
    """Times an fp32 tensor, the model's own when it is not given: an fp32 product."""
    node = t.node("mul", (x,), (factor,), lambda grad, _: (t.new(grad.rows, grad.width, grad.item, "mul"),))
    return t.new(x.rows, x.width, 4, "mul", node)


def learned(table: str, *, drops: bool, offset: int = 0, rows: str = "seq") -> Callable[[Context, Tensor], tuple[Tensor, ...]]:
    """A decoder's `position`: adds a learned table of `max_position` + `offset` rows, then drops out (GPT-2, OPT).

    `rows`: "seq" where one row of positions serves all sequences, else "tokens".
    """

    def position(ctx: Context, x: Tensor) -> tuple[Tensor, ...]:
        t, spec = ctx.t, ctx.spec
        width, item, trained = x.width, ctx.parameter, ctx.full and ctx.training
        entries = ((spec.max_position or 0) + offset) * width
        leaf = ctx.leaf(f"{table}.weight", entries, item, layer=-1, columns=width) if trained else None
        places = t.new(rows, width, ctx.hidden, "embedding")
        places.node = t.node("embedding", (leaf,), (), lambda grad, _: (t.new("one", entries, item, "embedding_backward"),))

        def summed(grad: Tensor) -> Tensor:
            return grad if rows == grad.rows else t.new(rows, width, grad.item, "sum")

        def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
            return (grad, summed(grad) if trained else None)

        node = t.node("add", (x, places), (), apply)
        hidden = t.new(x.rows, width, x.item, "add", node)
        return dropout(t, hidden, fused=ctx.like_cuda) if drops and ctx.training else hidden, places

    return position
