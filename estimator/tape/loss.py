"""Losses over shadow tensors: from the last hidden states and the head to a scalar, and back. One function per kind of `LossKernel`.

What each kind keeps and makes is said in loss_kernel.py, with sources in profiles/losses.yaml.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from ftadvise.estimator.loss_kernel import LossKernel
from ftadvise.estimator.tape.context import HEAD, Context
from ftadvise.estimator.tape.core import Leaf, Tensor
from ftadvise.estimator.tape.linear import Weight, linear
from ftadvise.estimator.tape.ops import Saved, copy, pointwise, scale, to, to_plain
from ftadvise.estimator.tape.work import Product

# Without Triton (CPU) a tile is expanded by plain operations, bytes per element beside it: forward z, e, e*z in fp32 and a mask; backward
# seven fp32 tensors and a mask (trl/kernels/chunked_logprob.py `_forward_tile`, `_backward_tile`)
_CPU_FORWARD, _CPU_BACKWARD = 13, 29


def loss_of(ctx: Context, kernel: LossKernel, hidden: Tensor, *, softcap: bool) -> tuple[Tensor, Tensor | None]:
    """(the loss, the logits when there are any). The caller says how long the logits live."""
    if kernel.kind == "logits":
        return _logits(ctx, kernel, hidden, softcap=softcap)
    if kernel.kind == "tiles":
        return _tiles(ctx, kernel, hidden, softcap=softcap), None
    kinds: dict[str, Callable[[Context, LossKernel, Tensor], Tensor]] = {
        "recomputed_chunks": _recomputed_chunks,
        "chunks_in_forward": _chunks_in_forward,
    }
    if kernel.kind == "kept_chunks":
        return _kept_chunks(ctx, kernel, hidden)
    return kinds[kernel.kind](ctx, kernel, hidden), None


def _head(ctx: Context) -> tuple[Weight, Leaf | None]:
    """The output head; tied to the embedding it shares its gradient."""
    spec = ctx.spec
    name = "embed_tokens.weight" if spec.tie_word_embeddings else "lm_head.weight"
    elements = spec.vocab_size * spec.hidden_size
    leaf = ctx.leaf(name, elements, ctx.parameter, layer=-1, columns=spec.hidden_size) if ctx.full and ctx.training else None
    return Weight("lm_head", elements, ctx.head, leaf=leaf), leaf


def _project(ctx: Context, hidden: Tensor) -> Tensor:
    """The head's product; it may be quantised and adapted like other linear layers."""
    vocabulary, weight = ctx.spec.vocab_size, _head(ctx)[0]
    quantized, adapted = ctx.is_quantized(HEAD), ctx.adapt is not None and ctx.targets(HEAD)
    if quantized or adapted:
        ctx.note(HEAD, hidden.width, vocabulary, adapted=adapted)
        weight = dataclasses.replace(ctx.weight(HEAD, hidden.width, vocabulary), item=weight.item)
    if ctx.adapt is not None and adapted:
        return ctx.adapt(ctx, HEAD, hidden, weight, vocabulary, None)
    return linear(ctx.t, weight, hidden, (hidden.rows, vocabulary), autocast=ctx.autocast)


def _logits(ctx: Context, kernel: LossKernel, hidden: Tensor, *, softcap: bool) -> tuple[Tensor, Tensor]:
    t = ctx.t
    logits = _project(ctx, hidden)
    if softcap:
        logits = scale(t, pointwise(t, scale(t, logits), "tanh", saves_output=True))
    wide = to(t, logits, 4) if kernel.upcasts else logits
    shown = logits if kernel.keeps_narrow else wide
    del logits
    shifted = _shifted(ctx, wide) if kernel.copies_shifted else wide
    if kernel.caller_shifts:
        shown = shifted
        del wide
    loss = _in_place(ctx, shifted) if kernel.gradient_in_place else _cross_entropy(ctx, shifted, transposed=kernel.caller_shifts)
    return loss, shown


def _shifted(ctx: Context, logits: Tensor) -> Tensor:
    """logits[..., :-1, :].contiguous(), a copy unless there is one sequence; the slice's gradient is a tensor of its own."""
    t, rows, width, item = ctx.t, logits.rows, logits.width, logits.item
    node = t.node("slice", (logits,), (), lambda grad, _: (t.new(rows, width, item, "slice_backward"),))
    predicting = Tensor(logits.storage, "loss_tokens", width, item, node)
    return predicting if ctx.single_sequence else copy(t, predicting)


def _cross_entropy(ctx: Context, logits: Tensor, *, transposed: bool) -> Tensor:
    """log_softmax is saved; its gradient, then its input's. `transposed`: CUDA's kernel copies its input (aten SoftMax.cu host_softmax)."""
    t = ctx.t
    contiguous = t.new(logits.rows, logits.width, logits.item, "contiguous") if transposed and ctx.like_cuda else None
    probabilities = pointwise(t, logits, "log_softmax", saves_output=True)
    del contiguous
    rows, width, item = probabilities.rows, probabilities.width, probabilities.item
    node = t.node("nll_loss", (probabilities,), (), lambda grad, _: (t.new(rows, width, item, "nll_loss_backward"),))
    return t.new("one", 1, 4, "nll_loss", node)


def _in_place(ctx: Context, logits: Tensor) -> Tensor:
    """Saves the logits, and writes their gradient into them."""
    t = ctx.t
    rows, width, item = logits.rows, logits.width, logits.item
    node = t.node("cross_entropy", (logits,), (logits,), lambda grad, saved: (Tensor(saved[0], rows, width, item),))
    return t.new("one", 1, 4, "cross_entropy", node)


def _predicting(ctx: Context, hidden: Tensor) -> Tensor:
    """All positions but the last of each sequence. That is a copy, unless there is one sequence, whose rest is contiguous."""
    t, rows, width = ctx.t, hidden.rows, hidden.width
    node = t.node("slice", (hidden,), (), lambda grad, _: (t.new(rows, width, grad.item, "slice_backward"),))
    if ctx.single_sequence:
        return Tensor(hidden.storage, "loss_tokens", width, hidden.item, node)
    return copy(t, Tensor(hidden.storage, "loss_tokens", width, hidden.item, node))


def _tiles(ctx: Context, kernel: LossKernel, hidden: Tensor, *, softcap: bool) -> Tensor:
    t, spec = ctx.t, ctx.spec
    _, leaf = _head(ctx)
    item, product, width = hidden.item, ctx.autocast or hidden.item, hidden.width
    columns = min(spec.vocab_size, kernel.tile_vocabulary)
    predicting = _predicting(ctx, hidden)

    def buffer() -> list[Tensor]:
        """Tiles are made in one buffer, which the function holds until it returns; what is not of the compute dtype is cast for it."""
        taken = [t.new("chunk", kernel.tile_vocabulary, product, "mm_buf")] if kernel.tile_vocabulary else []
        if kernel.tile_vocabulary and item != product:
            taken.append(t.new("chunk", width, product, "to"))
        if kernel.tile_vocabulary and ctx.head != product:
            taken.append(t.new("one", columns * width, product, "to"))
        return taken

    def expand(expanded: int) -> None:
        """Without Triton plain operations expand a tile."""
        taken = None if ctx.like_cuda else t.new("chunk", columns, expanded, "tile")
        del taken

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        gradient = t.new("loss_tokens", width, 4, "grad_hidden")
        head_gradient = t.new("one", spec.vocab_size * width, 4, "grad_weight") if leaf is not None else None
        held = buffer()
        expand(_CPU_BACKWARD + (4 if softcap else 0))  # the tanh of the capped logits
        if product != 4 and not ctx.like_cuda:  # the CPU has no mixed product: it casts the tile and its part of the head
            taken = [t.new("chunk", columns, 4, "to"), t.new("one", columns * width, 4, "to")]
            del taken
        _multiply(ctx, product, trained=leaf is not None, passes=2)
        narrowed = to_plain(t, gradient, item)
        narrowed_head = None if head_gradient is None else to_plain(t, head_gradient, ctx.parameter)
        del held, gradient, head_gradient
        return (narrowed, narrowed_head)

    node = t.node("fused_loss", (predicting, leaf), (predicting,), apply)
    _multiply(ctx, product, passes=1)
    held = buffer()
    expand(_CPU_FORWARD)
    del held
    return t.new("one", 1, 4, "fused_loss", node)


def _multiply(ctx: Context, item: int, *, passes: int, trained: bool = False) -> None:
    """The head's products in chunks: the logits; in the second of two `passes` the gradient of the hidden states, and of a trained head."""
    vocabulary, width = ctx.spec.vocab_size, ctx.spec.hidden_size
    logits = Product("loss", "loss_tokens", vocabulary, width, item)
    ctx.t.multiply(logits)
    if passes > 1:
        ctx.t.multiply(logits._replace(n=width, k=vocabulary))
    if trained:
        ctx.t.multiply(logits._replace(inner_rows=True))


def _valid_first(ctx: Context, predicting: Tensor) -> Tensor:
    """hidden[order]: tokens that are trained on come first."""
    t = ctx.t
    node = t.node("index", (predicting,), (), lambda grad, _: (t.new(grad.rows, grad.width, grad.item, "index_put"),))
    return t.new(predicting.rows, predicting.width, predicting.item, "index", node)


def _recomputed_chunks(ctx: Context, kernel: LossKernel, hidden: Tensor) -> Tensor:
    t, spec = ctx.t, ctx.spec
    _, leaf = _head(ctx)
    width, item, head_elements = hidden.width, hidden.item, spec.vocab_size * hidden.width
    picked = _valid_first(ctx, _predicting(ctx, hidden))

    product = (ctx.autocast or 4) if kernel.fp32_projection else item
    per_logit = kernel.chunk_bytes
    if product < 4 and kernel.fp32_projection:  # the logits' own softmax, which CUDA's autocast runs in fp32
        per_logit = 14 if ctx.like_cuda else 4 * product

    def project() -> Tensor | None:
        """Head and hidden states become fp32, which autocast takes back; what the product saves of the head."""
        if not kernel.fp32_projection:
            return None
        wide = [t.new("one", head_elements, 4, "head_fp32")] if ctx.head < 4 else []
        if item < 4:
            wide.append(t.new("chunk", width, 4, "hidden_fp32"))
        narrow = [t.new("one", head_elements, product, "head_to"), t.new("chunk", width, product, "to")] if product < 4 else wide[:]
        logits = t.new("chunk", spec.vocab_size, product, "chunk_logits")
        del wide, logits
        return narrow[0] if narrow else None

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        gradient = t.new("loss_tokens", width, item, "grad_hidden")
        head_gradient = t.new("one", head_elements, ctx.parameter, "grad_weight") if leaf is not None else None
        head = project()
        _multiply(ctx, product, trained=leaf is not None, passes=2)
        chunk = t.new("chunk", spec.vocab_size, per_logit, "chunk_logits")
        del head, chunk
        return (gradient, head_gradient)

    node = t.node("chunked_loss", (picked, leaf), (picked,), apply)
    project()
    _multiply(ctx, product, passes=1)
    chunk = t.new("chunk", spec.vocab_size, per_logit, "chunk_logits")
    del chunk
    return t.new("one", 1, 4, "chunked_loss", node)


def _chunks_in_forward(ctx: Context, kernel: LossKernel, hidden: Tensor) -> Tensor:
    t, spec = ctx.t, ctx.spec
    _, leaf = _head(ctx)
    width, item, head_elements = hidden.width, ctx.autocast or hidden.item, spec.vocab_size * hidden.width
    gradient = t.new(hidden.rows, width, item, "grad_hidden")
    head_gradient = t.new("one", head_elements, ctx.parameter, "grad_weight") if leaf is not None else None
    _multiply(ctx, item, trained=leaf is not None, passes=2 if t.grad_enabled else 1)
    taken = t.new("chunk", spec.vocab_size, kernel.chunk_bytes, "chunk_logits")
    del taken
    kept = [gradient] if head_gradient is None else [gradient, head_gradient]
    rows, before, trained = hidden.rows, hidden.item, leaf is not None

    def apply(grad: Tensor, saved: Saved) -> Sequence[Tensor | None]:
        narrowed = to_plain(t, Tensor(saved[0], rows, width, item), before)
        return (narrowed, Tensor(saved[1], "one", head_elements, ctx.parameter) if trained else None)

    node = t.node("chunks_in_forward", (hidden, leaf), kept, apply)
    return t.new("one", 1, 4, "chunks_in_forward", node)


def _kept_chunks(ctx: Context, kernel: LossKernel, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """All chunks' logits; each keeps its log-softmax (in fp32 when it was upcast), and one chunk at a time is worked on.

    Backward, each chunk's log-softmax and fp32 gradient go before the next chunk's come, and its narrow gradient stays.
    """
    t, vocabulary = ctx.t, ctx.spec.vocab_size
    logits = _project(ctx, hidden)
    item, node = logits.item, logits.node
    if kernel.caller_upcasts:
        logits = to(t, logits, 4)
    ctx.last_logits = None
    rows, saved_item = logits.rows, 4 if kernel.upcasts else logits.item
    kept = [t.new(rows, vocabulary, saved_item, "log_softmax")]

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        chunk = t.new("chunk", vocabulary, max(0, kernel.chunk_bytes - saved_item), "chunk")
        del chunk
        kept.clear()
        return (t.new(rows, vocabulary, item, "grad_logits"),)

    loss_node = t.node("kept_chunks", (Tensor(logits.storage, rows, vocabulary, item, node),), (), apply)
    return t.new("one", 1, 4, "kept_chunks", loss_node), logits
