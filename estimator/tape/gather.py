"""A step whose parameters are sharded: layers are gathered when they run, gradients are scattered when a layer's backward pass ends.

FSDP1 (torch/distributed/fsdp/_runtime_utils.py): a layer's flat parameter is whole during its forward pass, and again from the start of
its backward pass to the end; what lies outside the layers is the root's, whole from the first operation to the end of the backward pass.
The gradients of a layer are joined into one flat gradient, of which reduce-scatter leaves a share. With non-reentrant checkpoints, or
none, the layer before is gathered while one runs backward (BACKWARD_PRE); reentrant ones register no pre-backward hooks in their forward
pass (_register_pre_backward_hooks), so that nothing is prefetched. On frozen layers FSDP1 registers a hook on the recomputed layer's input
(register_multi_grad_hook in _register_post_backward_reshard_only_hook), which keeps that input and its gradient until the whole backward
pass is over: one hidden state and one gradient per layer.

FSDP2 (torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py): parameters are copied out of the gathered buffer, which in the forward
pass is kept until the next layer's arrives (AllGatherState); the layer before is always gathered ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftadvise.estimator.tape.core import Storage, Tensor
from ftadvise.estimator.tape.ops import Saved

if TYPE_CHECKING:
    from ftadvise.estimator.tape.context import Context


@dataclass(frozen=True, slots=True)
class Gather:
    """What is gathered, in bytes per GPU.

    Attributes:
        gpus: over how many gradients are scattered.
        root: parameters outside the layers.
        layers: parameters of each layer.
        forward_copies: buffers of a layer's size during its forward pass.
        ahead: the next layer is gathered while one runs backward.
        keeps_inputs: the input of each layer and its gradient stay until the backward pass is over.
        keeps_gradients: on the device until the optimizer's step; FSDP2 frees what it offloads, FSDP1 does not (_saved_grad_shard).
        gradient_item: bytes per element of the shares of gradients; 0: as the gradient.
    """

    gpus: int
    root: int
    layers: tuple[int, ...]
    forward_copies: int = 1
    ahead: bool = False
    keeps_inputs: bool = False
    keeps_gradients: bool = True
    gradient_item: int = 0


class Gathered:
    """What is whole at the moment of one recording."""

    def __init__(self, gather: Gather) -> None:
        self.gather = gather
        self._root: Storage | None = None
        self._current: Storage | None = None
        self._next: Storage | None = None
        self._shares: list[Storage] = []

    def start(self, ctx: Context) -> None:
        """The root's parameters, before the first operation."""
        self._root = self._whole(ctx, self.gather.root)

    def forward(self, ctx: Context, index: int) -> Storage | None:
        """A layer's parameters for as long as the caller holds them; None where the backward pass holds them already."""
        if self._current is not None:
            return None
        return self._whole(ctx, self.gather.forward_copies * self.gather.layers[index])

    def enter(self, ctx: Context, index: int, x: Tensor) -> Tensor:
        """The input of a layer: its backward pass ends here."""
        t, keeps = ctx.t, self.gather.keeps_inputs and ctx.training
        if keeps:
            t.kept.append(x.storage)

        def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
            if keeps:
                t.kept.append(grad.storage)
            self._current = None
            self._scatter(ctx, index)
            return (grad,)

        return Tensor(x.storage, x.rows, x.width, x.item, t.node("gather", (x,), (), apply))

    def leave(self, ctx: Context, index: int, x: Tensor) -> Tensor:
        """The output of a layer: its backward pass begins here."""

        def apply(grad: Tensor, _: Saved) -> Sequence[Tensor | None]:
            layers = self.gather.layers
            self._current, self._next = self._next or self._whole(ctx, layers[index]), None
            if self.gather.ahead and index:
                self._next = self._whole(ctx, layers[index - 1])
            return (grad,)

        return Tensor(x.storage, x.rows, x.width, x.item, ctx.t.node("gather", (x,), (), apply))

    def finish(self, ctx: Context) -> None:
        """After the backward pass: the gradients of what lies outside the layers. The shares stay until the next step."""
        self._current = self._next = None
        self._scatter(ctx, -1)
        self._root = None

    def _whole(self, ctx: Context, size: int) -> Storage:
        return ctx.t.new("one", size, 1, "all_gather", label="workspace").storage

    def _scatter(self, ctx: Context, index: int) -> None:
        """Join a layer's gradients, take the share, release the whole."""
        leaves = [(ctx.trained[key].item, leaf) for key, leaf in ctx.leaves.items() if key[0] == index and leaf.gradient is not None]
        flat = []
        for _, leaf in leaves:
            assert leaf.gradient is not None  # noqa: S101 - narrows the type
            flat.append(ctx.t.new(leaf.gradient.rows, leaf.gradient.size, 1, "reduce_scatter", label="gradients"))
        for _, leaf in leaves:
            leaf.gradient, leaf.held = None, False
        for (item, _), whole in zip(leaves, flat, strict=True):
            share = -(-whole.width * (self.gather.gradient_item or item) // (item * self.gather.gpus))
            storage = ctx.t.new(whole.rows, share, 1, "reduce_scatter", label="gradients").storage
            if self.gather.keeps_gradients:
                self._shares.append(storage)
