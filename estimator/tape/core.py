"""The tape: shadow tensors that are only sizes, a small autograd over them, and a record of every storage taken and released.

Layer functions written over these tensors in the shape of the real code have the real code's lifetimes: a storage is released when
Python drops the last tensor on it, exactly as PyTorch's are. Sizes are symbolic: a storage holds `bytes` times one of the quantities in
`Rows` (tokens, rank, ...), so that one record serves every batch, length and rank (see profile.py).

The engine follows torch/csrc/autograd/engine.cpp: nodes run in reverse order of creation; a node's incoming gradient is released after it
has run, then its saved tensors; gradients of one tensor are added in place when nobody else holds the first. Checkpoints follow
torch/utils/checkpoint.py (use_reentrant=False): saved tensors are dropped, the first one that is asked for recomputes the layer, which
stops at the last one that was saved.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftadvise.estimator.tape.work import Product

Rows = str
"""What a storage's bytes are multiplied by; the names and their values are `sizes.quantities`."""

Apply = Callable[["Tensor", Sequence["Storage"]], "Sequence[Tensor | None]"]


class Info:
    """What a storage is for; shared by its two events, so that it can be named later (a gradient is one only when it has arrived).

    `taken` is the index of the event that took it.
    """

    __slots__ = ("label", "module", "operation", "taken")

    def __init__(self, label: str, operation: str, module: str, taken: int) -> None:
        self.label, self.operation, self.module, self.taken = label, operation, module, taken


Event = tuple[Rows, int, Info]
"""Rows, bytes (negative when released), and what the storage is for."""


class Storage:
    """Bytes taken now and released when the last tensor on them goes."""

    __slots__ = ("info", "rows", "size", "tape")

    def __init__(self, tape: Tape, rows: Rows, size: int, info: Info) -> None:
        self.tape, self.rows, self.size, self.info = tape, rows, size, info
        tape.events.append((rows, size, info))

    def __del__(self) -> None:
        self.tape.events.append((self.rows, -self.size, self.info))


class Tensor:
    """A view of a storage: `rows` x `width` elements of `item` bytes. `node` made it, or None when no gradient is wanted."""

    __slots__ = ("item", "node", "rows", "storage", "width")

    def __init__(self, storage: Storage, rows: Rows, width: int, item: int, node: Node | None = None) -> None:
        self.storage, self.rows, self.width, self.item, self.node = storage, rows, width, item, node


class Node:
    """One operation of the backward pass. `edges` are the nodes its gradients go to; `saved` what it keeps until then.

    `items`: bytes per element of each input (0: not known), which the engine casts gradients to (engine.cpp, validate_outputs).
    """

    __slots__ = ("apply", "edges", "frame", "grads", "items", "label", "module", "name", "order", "saved")

    def __init__(
        self, order: int, name: str, label: str, module: str, edges: Sequence[Node | None], saved: Any, apply: Apply, frame: Frame | None
    ) -> None:
        self.order, self.name, self.edges, self.saved, self.apply, self.frame = order, name, edges, saved, apply, frame
        self.label, self.module = label, module
        self.items: Sequence[int] = ()
        self.grads: Tensor | None = None


class Leaf(Node):
    """Where a trained parameter's gradient arrives (AccumulateGrad). `held`: a gradient from an earlier micro batch exists."""

    __slots__ = ("gradient", "held")

    def __init__(self, *, held: bool) -> None:
        super().__init__(sys.maxsize, "AccumulateGrad", "gradients", "", (), (), _no_apply, None)
        self.held = held
        self.gradient: Storage | None = None

    @property
    def node(self) -> Node:
        """A parameter among an operation's inputs is its own node."""
        return self

    @property
    def item(self) -> int:
        """Not known here: a weight's gradient is made in its dtype."""
        return 0


def _no_apply(grad: Tensor, saved: Sequence[Storage]) -> tuple[()]:
    return ()


class Frame:
    """One checkpointed call: what to recompute, how many tensors it saved, and those that the recomputation brought back.

    `held`: what else lives until the call's backward pass is through.
    """

    __slots__ = ("count", "held", "output", "recompute", "recomputed", "total")

    def __init__(self, recompute: Callable[[], Any]) -> None:
        self.recompute, self.total, self.count = recompute, 0, 0
        self.recomputed: dict[int, Storage] | None = None
        self.output: Tensor | None = None
        self.held: list[Tensor] = []


class Repeat:
    """A stretch of layers that stands for `times` equal ones: its events in the forward and in the backward pass (start, end).

    `next_end`: where the stretch after it ends in the forward pass, until when storages are still handed on from one to the next.
    """

    __slots__ = ("backward", "forward", "next_end", "orders", "times")

    def __init__(self, forward: tuple[int, int], orders: tuple[int, int], times: int) -> None:
        self.forward, self.orders, self.times = forward, orders, times
        self.backward: tuple[int, int] | None = None
        self.next_end = forward[1]


class _StopRecomputation(Exception):  # noqa: N818 - it is a signal
    """The last saved tensor is there again."""


class _Scope:
    """A class and not a generator: a generator would keep the frames of a stopped recomputation alive."""

    __slots__ = ("before", "label", "module", "tape")

    def __init__(self, tape: Tape, module: str, label: str | None) -> None:
        self.tape, self.module, self.label = tape, module, label

    def __enter__(self) -> None:
        tape = self.tape
        self.before = tape.module, tape.label
        tape.module = f"{tape.module}.{self.module}" if tape.module and self.module else self.module or tape.module
        tape.label = self.label or tape.label

    def __exit__(self, *_: object) -> None:
        self.tape.module, self.tape.label = self.before


class Tape:
    """Events of one training step, and what the operations need to know: the grad mode, the scope, open checkpoints.

    `reentrant`: a checkpoint recomputes the whole of its call before any of its nodes runs (torch/utils/checkpoint.py CheckpointFunction),
    and those nodes own what they save. `offloads`: what a checkpoint keeps lives in host memory, and a buffer of its size is taken to
    recompute.
    """

    def __init__(self, *, reentrant: bool = False, offloads: bool = False) -> None:
        self.reentrant, self.offloads = reentrant, offloads
        self.events: list[Event] = []
        self.phases: list[tuple[int, str]] = []
        self.repeats: list[Repeat] = []
        self.products, self.in_place = list[tuple[int, "Product"]](), list[tuple[int, Rows, int]]()
        self.recomputations: list[tuple[int, int]] = []
        self.grad_enabled = True
        self.label, self.module = "activations", ""
        self.copies: dict[str, int] = {}  # modules, each standing for so many equal ones
        self.autocast_cache: dict[int, Tensor] = {}
        self.kept: list[Storage] = []
        self._order = 0
        self._frame: Frame | None = None
        self._recomputing: Frame | None = None

    @property
    def order(self) -> int:
        """How many nodes there are."""
        return self._order

    def repeat(self, first_event: int, first_order: int, times: int) -> None:
        """What was recorded since stands for `times` equal stretches."""
        self.repeats.append(Repeat((first_event, len(self.events)), (first_order + 1, self._order), times))

    def wanted(self) -> Node:
        """A gradient that is wanted and then dropped: an input made to require one."""
        return Leaf(held=True)

    @property
    def recomputing(self) -> Frame | None:
        """The checkpointed call that is being recomputed."""
        return self._recomputing

    @property
    def saves(self) -> bool:
        """Whether an operation's node keeps what it saves now: a checkpoint drops it at once."""
        return self.grad_enabled and self._frame is None

    def keep(self, storage: Storage) -> Storage | None:
        """What a custom function keeps on its context, where no checkpoint sees it: until the whole graph goes.

        In a recomputation until that is over: the operation must hold what is returned. A reentrant checkpoint has no graph to keep it.
        """
        if self._frame is not None and self.reentrant:
            return None
        if self._recomputing is None:
            self.kept.append(storage)
        return storage

    def multiply(self, product: Product) -> None:
        """A matrix product runs here."""
        self.products.append((len(self.events), product))

    def phase(self, name: str) -> None:
        """Events from here on belong to this phase."""
        self.phases.append((len(self.events), name))

    def new(self, rows: Rows, width: int, item: int, operation: str, node: Node | None = None, label: str | None = None) -> Tensor:
        """A tensor on a storage of its own."""
        return Tensor(
            Storage(self, rows, width * item, Info(label or self.label, operation, self.module, len(self.events))), rows, width, item, node
        )

    def node(self, name: str, inputs: Sequence[Tensor | Leaf | None], saved: Sequence[Tensor | None], apply: Apply) -> Node | None:
        """The backward operation of a forward one, or None when no input wants a gradient. Saves the tensors' storages.

        None among them is a tensor of the model that is saved too (a frozen weight, the cosines): it costs nothing, but a checkpoint
        recomputes when it is asked for, and up to where it was saved.
        """
        if not self.grad_enabled:
            return None
        edges = [None if x is None else x.node for x in inputs]
        if edges.count(None) == len(edges):
            return None
        self._order += 1
        frame = self._frame
        storages: Any = ()
        if saved:
            if frame is None:
                storages = [None if x is None else x.storage for x in saved]
            else:
                storages = range(frame.total, frame.total + len(saved))
                frame.total += len(saved)
        node = Node(self._order, name, self.label, self.module, edges, storages, apply, frame)
        node.items = [0 if x is None else x.item for x in inputs]
        if self._recomputing is not None and saved:
            node.saved = ()  # handed to the frame, from where the nodes that run take it
            # the order of saving is the forward pass's; stop where its last tensor is back
            self._bring_back(self._recomputing, storages)
        return node

    def _bring_back(self, frame: Frame, storages: tuple[Storage, ...]) -> None:
        for storage in storages:
            assert frame.recomputed is not None  # noqa: S101 - narrows the type
            frame.recomputed[frame.count] = storage
            frame.count += 1
        if not self.reentrant and frame.count >= frame.total:
            raise _StopRecomputation

    def scope(self, module: str, label: str | None = None) -> _Scope:
        """Names what is taken inside."""
        return _Scope(self, module, label)

    def checkpoint(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Run without keeping saved tensors; they are computed again in the backward pass. `x` is kept, or moved to host memory."""
        module, label = self.module, self.label
        kept, shape, node = None if self.offloads else x, (x.rows, x.width, x.item), x.node

        def recompute() -> Tensor:
            before = self.module, self.label, self.grad_enabled, self.autocast_cache
            self.module, self.label, self.grad_enabled, self.autocast_cache = module, label, True, {}
            try:
                return function(kept if kept is not None else self.new(*shape, "offloaded_input", node))
            finally:
                self.module, self.label, self.grad_enabled, self.autocast_cache = before

        outer, self._frame = self._frame, Frame(recompute)
        try:
            return function(x)
        finally:
            self._frame = outer

    def unpack(self, node: Node) -> Sequence[Storage]:
        """The saved storages of a node, recomputed when they were checkpointed."""
        frame = node.frame
        if frame is not None and frame.recomputed is None and (node.saved or self.reentrant):
            frame.recomputed = {}
            outer, suspended, begun = self._recomputing, self._frame, len(self.events)
            self._recomputing, self._frame = frame, None
            try:
                frame.output = frame.recompute()
            except _StopRecomputation:
                pass
            finally:
                self._recomputing, self._frame = outer, suspended
                self.recomputations.append((begun, len(self.events)))
        saved: Sequence[Any] = node.saved
        if frame is None or frame.recomputed is None or not saved:
            return saved
        return [frame.recomputed.pop(index) for index in saved]

    def backward(self, loss: Tensor, on_leaf: Callable[[Leaf], None] | None = None) -> None:
        """Run the backward pass from `loss`, whose tensor the caller may still hold."""
        root = loss.node
        if root is None:
            return
        waiting = _dependencies(root)
        root.grads = self.new(loss.rows, loss.width, loss.item, "ones_like")
        ready: list[tuple[int, int, Node]] = [(-root.order, 0, root)]
        pushed = 0
        open_repeats = sorted((each for each in self.repeats if each.backward is None), key=lambda each: each.orders[0])
        started = -1
        while ready:
            node = heapq.heappop(ready)[2]
            if open_repeats and not isinstance(node, Leaf):
                if started >= 0 and node.order < open_repeats[-1].orders[0]:
                    open_repeats.pop().backward = (started, len(self.events))
                    started = -1
                if started < 0 and open_repeats and node.order <= open_repeats[-1].orders[1]:
                    started = len(self.events)
            if isinstance(node, Leaf):
                self._accumulate(node)
                if on_leaf is not None:
                    on_leaf(node)
                continue
            for edge, gradient in self._run(node):
                if edge is None:
                    continue
                if gradient is not None:
                    self._add(edge, gradient)
                waiting[edge] -= 1
                if waiting[edge] == 0:
                    pushed += 1
                    heapq.heappush(ready, (-edge.order, pushed, edge))
                gradient = None
        if started >= 0:
            open_repeats.pop().backward = (started, len(self.events))
        self.kept.clear()

    def _run(self, node: Node) -> list[tuple[Node | None, Tensor | None]]:
        self.module, self.label = node.module, node.label
        saved = self.unpack(node)
        grad, node.grads = node.grads, None
        edges, node.edges = node.edges, ()
        gradients: list[Tensor | None] = list(node.apply(grad, saved)) if grad is not None else [None] * len(edges)
        if not self.reentrant:
            del saved  # what was recomputed goes now; what the node itself saved, and its own gradient, after the casts
        self._cast(gradients, node.items)
        del grad
        node.saved, node.frame, node.apply = (), None, _no_apply
        return list(zip(edges, gradients, strict=True))

    def _cast(self, gradients: list[Tensor | None], items: Sequence[int]) -> None:
        for index, item in enumerate(items):
            gradient = gradients[index]
            if gradient is not None and item and gradient.item != item:
                gradients[index] = self.new(gradient.rows, gradient.width, item, "to")

    def _add(self, edge: Node, gradient: Tensor) -> None:
        """Into the slot of `edge`: moved, added in place when nobody else holds what is there, else added into a new tensor."""
        held = edge.grads
        if held is None:
            edge.grads = gradient
            return
        # references to the tensor: the slot, `held`, the call; to its storage: the tensor, the call
        if sys.getrefcount(held) > 3 or sys.getrefcount(held.storage) > 2:
            edge.grads = self.new(held.rows, held.width, held.item, "add")
        else:
            self.in_place.append((len(self.events), held.rows, held.width * held.item))

    def _accumulate(self, leaf: Leaf) -> None:
        gradient, leaf.grads = leaf.grads, None
        if gradient is None or leaf.held:
            return
        leaf.held = True
        gradient.storage.info.label = "gradients"
        leaf.gradient = gradient.storage


def _dependencies(root: Node) -> dict[Node, int]:
    """How many gradients each node waits for."""
    counts: dict[Node, int] = {root: 0}
    stack = [root]
    while stack:
        for edge in stack.pop().edges:
            if edge is not None:
                if edge in counts:
                    counts[edge] += 1
                else:
                    counts[edge] = 1
                    stack.append(edge)
    return counts
