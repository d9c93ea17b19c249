"""Prompt and prefix tuning as PEFT computes them: trained embeddings before the tokens', or trained keys and values in every layer.

Source: peft 0.21 peft_model.py (PeftModelForCausalLM.forward, get_prompt); transformers 5.23 cache_utils.py (DynamicLayer.update).
"""

from __future__ import annotations

from collections.abc import Sequence

from ftadvise.estimator.peft_settings import VIRTUAL_TOKENS
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tensor
from ftadvise.estimator.tape.ops import Saved, split, to


def with_prompts(ctx: Context, tokens: Tensor) -> Tensor:
    """Prompts and tokens in one tensor, which PEFT's frame keeps until the loss is there; with other methods the tokens."""
    if ctx.recipe.method != "prompt":
        return tokens
    with ctx.t.scope("prompt_encoder"):
        prompts = to(ctx.t, _embedded(ctx, ctx.spec.hidden_size, repeats=True), ctx.hidden)
        joined = _joined(ctx, prompts, tokens, "tokens")
    ctx.cache += (prompts, joined)
    return joined


def begin_prefixes(ctx: Context) -> None:
    """Keys and values of every layer: parts of one tensor, whose gradient comes together when all layers are done."""
    spec = ctx.spec
    if ctx.recipe.method != "prefix":
        return
    width, count = spec.num_kv_heads * spec.head_dim, 2 * spec.num_layers
    with ctx.t.scope("prompt_encoder"):
        whole = to(ctx.t, _embedded(ctx, width * count), ctx.hidden)
        ctx.prefixes = split(ctx.t, whole, [VIRTUAL_TOKENS * width] * count)


def with_prefix(ctx: Context, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The layer's keys and values behind its prefix, as the cache joins and keeps them."""
    if not ctx.prefixes:
        return keys, values
    first, second = ctx.prefixes[2 * ctx.layer : 2 * ctx.layer + 2]
    joined = _joined(ctx, first, keys, "key_tokens"), _joined(ctx, second, values, "key_tokens")
    ctx.cache += joined
    return joined


def _embedded(ctx: Context, width: int, *, repeats: bool = False) -> Tensor:
    """A trained embedding of all virtual tokens, for each sequence: looked up so often, or once and copied."""
    t, elements, item = ctx.t, VIRTUAL_TOKENS * width, ctx.adapter
    leaf = ctx.leaf("prompt_encoder", elements, item, layer=-1, columns=width)
    node = t.node("embedding", (leaf,), (), lambda grad, _: (t.new("one", elements, item, "embedding_backward"),))
    if not repeats:
        return t.new("sequences", elements, item, "embedding", node)
    once = t.new("one", elements, item, "embedding", node)
    node = t.node("repeat", (once,), (), lambda grad, _: (t.new("one", elements, item, "sum"),))
    return t.new("sequences", elements, item, "repeat", node)


def _joined(ctx: Context, virtual: Tensor, tokens: Tensor, rows: str) -> Tensor:
    t = ctx.t
    shapes = (virtual.rows, virtual.width), (tokens.rows, tokens.width)
    wants = virtual.node is not None, tokens.node is not None

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        return [Tensor(grad.storage, *shape, grad.item) if want else None for shape, want in zip(shapes, wants, strict=True)]

    node = t.node("cat", (virtual, tokens), (), apply)
    return t.new(rows, tokens.width, max(virtual.item, tokens.item), "cat", node)
