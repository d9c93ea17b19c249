"""One training step over shadow tensors: forward, backward, and an evaluation pass, as Trainer and transformers' models run them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ftadvise.estimator.loss_kernel import LossKernel
from ftadvise.estimator.tape.adalora import orthogonality_penalty
from ftadvise.estimator.tape.blocks import norm
from ftadvise.estimator.tape.context import Context
from ftadvise.estimator.tape.core import Tensor
from ftadvise.estimator.tape.loss import loss_of
from ftadvise.estimator.tape.ops import Saved, scale
from ftadvise.estimator.tape.virtual_tokens import begin_prefixes, with_prompts
from ftadvise.profiles.model_spec import ModelSpec

Layer = Callable[[Context, Tensor], Tensor]


def rotary_tables(ctx: Context, *, share: float = 1.0, item: int = 0) -> list[Tensor]:
    """cos and sin, for `share` of each head, in `item` bytes (0: as the hidden states)."""
    return [ctx.t.new("seq", int(ctx.spec.head_dim * share), item or ctx.hidden, "rotary") for _ in range(2)]


def _rotary_tables(ctx: Context) -> list[Tensor]:
    return rotary_tables(ctx) if ctx.spec.position == "rope" else []


@dataclass(frozen=True, slots=True)
class Decoder:
    """How a family of models is built. `layer(spec, index)` is what layer `index` computes; equal kinds are equal layers."""

    kind: Callable[[ModelSpec, int], str]
    layers: dict[str, Layer]
    scales_embedding: bool = False
    embedding_scales: bool = False
    """The embedding module itself scales (Gemma), so that its output is scaled already when it is made to require a gradient."""
    softcaps_logits: bool = False
    final_norm: bool = True
    norm: Callable[[Context, str, Tensor], Tensor] = norm
    masks: tuple[str, ...] = ("full",)
    """The attention masks that the model makes: "full", "sliding"."""
    tables: Callable[[Context], list[Tensor]] = _rotary_tables
    """What the model makes once for all layers (cos and sin, position biases), beside masks."""
    position: Callable[[Context, Tensor], tuple[Tensor, ...]] | None = None
    """From the embedded tokens to what the first layer reads, and what else the model's forward names until it returns."""

    returns_weights: bool = False
    """Layers return eager attention's weights, which the model names until the next layer has returned."""
    own_linears: bool = False
    """The layers' linear modules are of a class of their own, derived from torch's."""
    buffers: Callable[[ModelSpec], int] = lambda spec: 0
    """Bytes of tensors beside the parameters, where they are more than rotary frequencies."""


def training_step(
    ctx: Context, decoder: Decoder, kernel: LossKernel, *, keeps_logits: bool, compress: bool = True, before: Context | None = None
) -> None:
    """Record one micro batch: forward and backward.

    Args:
        keeps_logits: the caller holds them until the step ends.
        before: where the caller holds loss and logits of one step until the next ones are there: a second context, for the step before.
    """
    t = ctx.t
    t.phase("forward")
    held = _left_by(before, ctx, decoder, kernel, compress=compress) if before else []
    if ctx.gathered:
        ctx.gathered.start(ctx)
    with t.scope("", "workspace"):
        batch = inputs(ctx, decoder)
    value, logits = forward(ctx, decoder, kernel, compress=compress)
    t.autocast_cache, ctx.last_logits = {}, None
    held.clear()
    if not keeps_logits:
        logits = None
    t.phase("backward")
    t.backward(value)
    if ctx.gathered:
        ctx.gathered.finish(ctx)
    t.phase("optimizer_step")
    del logits, value, batch


def _left_by(before: Context, ctx: Context, decoder: Decoder, kernel: LossKernel, *, compress: bool) -> list[Tensor]:
    """What a step's loss holds until it is dropped: storages on the contexts of its functions. The logits go to `ctx.last_logits`."""
    t = before.t
    batch = inputs(before, decoder)
    value, logits = forward(before, decoder, kernel, compress=compress)
    sizes: dict[str, int] = {}
    for storage in {id(each): each for each in t.kept}.values():
        times = next((each.times for each in t.repeats if each.forward[0] <= storage.info.taken < each.forward[1]), 1)
        sizes[storage.rows] = sizes.get(storage.rows, 0) + storage.size * times
    if logits is not None:
        ctx.last_logits = ctx.t.new(logits.rows, logits.width, logits.item, "logits", label="loss")
    del batch, value, logits
    return [ctx.t.new(rows, size, 1, "last_step") for rows, size in sizes.items()]


def evaluation_step(ctx: Context, decoder: Decoder, kernel: LossKernel) -> None:
    """Record one forward pass without gradients."""
    t = ctx.t
    ctx.training = t.grad_enabled = False
    t.phase("evaluation")
    if ctx.gathered:
        ctx.gathered.start(ctx)
    with t.scope("", "workspace"):
        batch = inputs(ctx, decoder)
    value, logits = forward(ctx, decoder, kernel, compress=True)
    t.autocast_cache = {}
    del value, logits, batch
    if ctx.gathered:
        ctx.gathered.finish(ctx)


def inputs(ctx: Context, decoder: Decoder) -> list[Tensor]:
    """Token ids, labels and mask (int64), cos and sin of the rotary positions, and the boolean mask that checkpoints keep."""
    t = ctx.t
    taken = [t.new("data_tokens", 3, 8, "inputs")]
    if ctx.recipe.method == "prompt":  # labels and mask again, longer
        taken.append(t.new("tokens", 1, 12, "inputs"))
    taken += decoder.tables(ctx)
    if ctx.recipe.gradient_checkpointing:
        taken += _masks(ctx, decoder)
    return taken


def _masks(ctx: Context, decoder: Decoder) -> list[Tensor]:
    item = ctx.hidden if ctx.kernel == "eager" else 1
    rows = "key_scores" if ctx.recipe.method == "prefix" else "scores"
    return [ctx.t.new(rows, 1, item, "mask") for kind in decoder.masks if _has_mask(ctx, kind)]


def _has_mask(ctx: Context, kind: str) -> bool:
    """Eager attention always has one; SDPA where lengths differ or a window is shorter than the sequence; flash-attn has none."""
    if ctx.kernel == "eager":
        return True
    return ctx.recipe.attention == "sdpa" and (ctx.masked or (kind == "sliding" and ctx.windowed))


def forward(ctx: Context, decoder: Decoder, kernel: LossKernel, *, compress: bool) -> tuple[Tensor, Tensor | None]:
    """(loss, logits or None)."""
    t = ctx.t
    ctx.layer = -1
    hidden = backbone(ctx, decoder, compress=compress)
    ctx.layer = -1
    with t.scope("lm_head", "loss"):
        loss, logits = loss_of(ctx, kernel, hidden, softcap=decoder.softcaps_logits)
        if ctx.recipe.method == "adalora" and t.grad_enabled:
            del hidden
            times = layer_times(decoder, ctx.spec) if compress else {}
            loss = orthogonality_penalty(ctx, loss, logits, times, inside=kernel.kind != "tiles")
        ctx.cache.clear()
        return loss, logits


def backbone(ctx: Context, decoder: Decoder, *, compress: bool) -> Tensor:
    """Embedding, layers, last norm. The model keeps its `inputs_embeds` until it returns."""
    t, spec = ctx.t, ctx.spec
    embedded = with_prompts(ctx, embed(ctx, decoder))
    begin_prefixes(ctx)
    masks = [] if ctx.recipe.gradient_checkpointing else _masks(ctx, decoder)
    hidden, *named = decoder.position(ctx, embedded) if decoder.position is not None else (embedded,)
    kinds = [decoder.kind(spec, index) for index in range(spec.num_layers)]
    ctx.outputs = []
    for start, length, times in segments(kinds) if compress else [(0, len(kinds), 1)]:
        first_event, first_order = len(t.events), t.order
        for index in range(start, start + length):
            hidden = _layer(ctx, decoder, kinds[index], index, hidden)
        if t.repeats and t.repeats[-1].next_end == first_event:
            t.repeats[-1].next_end = len(t.events)
        if times > 1:
            t.repeat(first_event, first_order, times)
    ctx.layer = -1
    if decoder.final_norm:
        with t.scope("norm"):
            hidden = decoder.norm(ctx, "norm", hidden)
    ctx.prefixes = ctx.outputs = []
    del masks, named
    return hidden


def _returned(ctx: Context) -> None:
    """A layer returned attention weights beside its output. Where the graph saves them all the same, their name makes no difference.

    A reentrant checkpoint makes zeros for the gradient that nobody gives them (torch autograd Function: materialized gradients).
    """
    if not ctx.recipe.gradient_checkpointing and ctx.training:
        return
    ctx.outputs = ctx.returned
    if ctx.t.recomputing is not None and ctx.t.reentrant:
        ctx.outputs = []
        ctx.t.recomputing.held += [*ctx.returned, *(ctx.t.new(x.rows, x.width, x.item, "zeros") for x in ctx.returned)]


def _layer(ctx: Context, decoder: Decoder, kind: str, index: int, hidden: Tensor) -> Tensor:
    def call(x: Tensor) -> Tensor:
        ctx.layer = index
        whole = gathered.forward(ctx, index) if gathered else None  # noqa: F841 - held while the layer runs
        try:
            out = layer(ctx, x)
            if decoder.returns_weights:
                _returned(ctx)
            return out
        finally:
            ctx.returned = []

    gathered, layer = ctx.gathered, decoder.layers[kind]
    with ctx.t.scope(f"layers.{index}"):
        inside = gathered.enter(ctx, index, hidden) if gathered else hidden
        out = ctx.t.checkpoint(call, inside) if ctx.recipe.gradient_checkpointing and ctx.training else call(inside)
        return gathered.leave(ctx, index, out) if gathered else out


def embed(ctx: Context, decoder: Decoder) -> Tensor:
    """Token embeddings. With adapters and checkpointing their output is made to require a gradient."""
    t, spec = ctx.t, ctx.spec
    leaf = (
        ctx.leaf("embed_tokens.weight", spec.vocab_size * spec.hidden_size, ctx.parameter, layer=-1, columns=spec.hidden_size)
        if ctx.full and ctx.training
        else None
    )

    def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
        return (t.new("one", spec.vocab_size * spec.hidden_size, ctx.parameter, "embedding_backward"),)

    with t.scope("embed_tokens"):
        out = t.new("data_tokens" if ctx.recipe.method == "prompt" else "tokens", spec.hidden_size, ctx.hidden, "embedding")
        if leaf is not None:
            out.node = t.node("embedding", (leaf,), (), apply)
        if decoder.embedding_scales:
            out = scale(t, out)
        if leaf is None and ctx.inputs_require_gradient:
            out.node = t.wanted()
            t.keep(out.storage)  # as the leaf of the graph
        return scale(t, out) if decoder.scales_embedding else out


def layer_times(decoder: Decoder, spec: ModelSpec) -> dict[int, int]:
    """How many layers each recorded one stands for."""
    kinds = [decoder.kind(spec, index) for index in range(spec.num_layers)]
    return {index: times for start, length, times in segments(kinds) for index in range(start, start + length)}


def segments(kinds: Sequence[str], longest: int = 8) -> list[tuple[int, int, int]]:
    """(first layer, layers, times) so that equal stretches are recorded once: the first, the repeated ones between, the last."""
    found: list[tuple[int, int, int]] = []
    position = 0
    while position < len(kinds):
        best = (1, 1)
        for period in range(1, longest + 1):
            unit, times = kinds[position : position + period], 1
            while kinds[position + times * period : position + (times + 1) * period] == unit:
                times += 1
            if times >= 4 and times * period > best[0] * best[1]:
                best = (period, times)
        period, times = best
        if times == 1:
            found.append((position, 1, 1))
        else:
            found += [(position, period, 1), (position + period, period, times - 2), (position + (times - 1) * period, period, 1)]
        position += period * times
    return found
