"""The work of a step beside its storages: matrix products, attention, bytes that pass through memory, operations that are launched.

Products are entered where the tape makes their outputs, so that what a checkpoint recomputes, what a frozen layer's backward pass leaves
out and what a stack's kernels fuse is counted as it runs. Everything else is an operation that makes a storage: it writes it, and reads
as much, or twice as much where two tensors meet. What is not seen: operations in place, and operations on a handful of numbers.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from ftadvise.estimator.tape.core import Tape

Stretch = Literal["forward", "recomputation", "backward"]
STRETCHES: tuple[Stretch, ...] = ("forward", "recomputation", "backward")
Kind = Literal["matmul", "adapter", "attention", "attention_backward", "scores", "loss"]


class Product(NamedTuple):
    """One matrix product (rows x inner) (inner x n), or a fused attention kernel. `rows` names the quantity that its rows are counted by.

    matmul, adapter, loss    2 * rows * times * n * k operations; `ranked` says which of n and k is to be multiplied by the rank.
    scores                   every query with every key: 2 * rows * n operations, n features of all heads together.
    attention                the same twice, for scores and values, in one kernel that leaves out what lies behind the diagonal:
                             rows * times * (n + k), n features of keys and k of values; `times` 2 where a mask hides nothing from it.
                             `window`: keys that a query sees at the most, 0 for all. Its backward pass has five products for two.

    `kernel` names the attention kernel. `groups` weights share the rows equally (experts); `alone`: this is the product of one of them
    only. `inner_rows`: rows are what is summed over
    (the gradient of a weight).
    """

    kind: Kind
    rows: str
    n: int
    k: int
    item: int
    ranked: str = ""
    times: int = 1
    groups: int = 1
    alone: bool = False
    inner_rows: bool = False
    window: int = 0
    kernel: str = ""


_TWO_INPUTS = frozenset({"add", "mul", "pow", "swiglu", "index_add", "nll_loss_backward", "log_softmax", "softmax"})
"""Operations that read twice what they write: two tensors, or one tensor twice."""
_NO_KERNEL = frozenset(
    {
        *("linear", "mm", "matmul", "bmm", "grouped_mm", "lora_A", "lora_backward", "int8_linear_matmul"),  # outputs of products
        *("flash", "efficient", "cpu", "attention_backward", "logsumexp", "softmax_d", "delta", "dq_accumulator", "expanded_gradient"),
        *("last_step", "logits", "all_gather", "reduce_scatter", "mm_buf"),
    }
)
"""Storages that no element-wise operation writes: products and attention count their own bytes, collectives theirs."""
_LAUNCHES = {"dequantize_4bit": 6, "dequantize_8bit": 4, "dequantize": 2, "int8_vectorwise_quant": 4}
"""Operations that the host sees as several: bitsandbytes' functions are Python, which looks at state and devices, makes the constants of
double quantisation and then the weight (functional.py dequantize_4bit, autograd/_functions.py MatMul4Bit and MatMul8bitLt).
"""
_PER_CHUNK = frozenset({"head_fp32", "head_to"})
"""Copies of the whole head that every chunk of the loss makes."""


Counts = tuple[int, int, int]
"""How often in each of STRETCHES."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Element-wise operations of one kind: "elementwise", "dequantization" or "loss".

    Each writes some bytes per unit of the quantity `rows` and reads `reads` times as much; `sizes` are those bytes in ascending order,
    `operations` and `bytes` the counts, and bytes written, of all operations up to each size. `rows` "chunk" and "chunks": once for each
    chunk of the loss. Size 0: nothing but the launch is left to count.
    """

    kind: str
    rows: str
    reads: int
    sizes: tuple[int, ...]
    operations: tuple[Counts, ...]
    bytes: tuple[Counts, ...]


def _traffic(kind: str, rows: str, reads: int, counts: dict[int, list[int]]) -> Traffic:
    sizes = tuple(sorted(counts))
    operations, written = [0, 0, 0], [0, 0, 0]
    found: tuple[list[Counts], list[Counts]] = ([], [])
    for size in sizes:
        for stretch, count in enumerate(counts[size]):
            operations[stretch] += count
            written[stretch] += count * size
        found[0].append((operations[0], operations[1], operations[2]))
        found[1].append((written[0], written[1], written[2]))
    return Traffic(kind, rows, reads, sizes, tuple(found[0]), tuple(found[1]))


@dataclass(frozen=True)
class StepWork:
    """All work of one micro batch, by stretch. Each product with how often it runs; traffic by class."""

    products: tuple[tuple[Product, Counts], ...]
    traffic: tuple[Traffic, ...]
    hosted: Counts
    """Launches by the host beyond one for each operation of `traffic`."""


def work_of(tape: Tape) -> StepWork:
    """Add up a recorded step, equal layers as often as they occur.

    A module that stands for several equal ones has the weights of each, and shares out its tokens among them.
    """
    stretches, copies = _Stretches(tape), tape.copies
    products: dict[Product, list[int]] = {}
    for index, product in tape.products:
        stretch, times = stretches.at(index)
        products.setdefault(product, [0, 0, 0])[stretch] += times * copies.get(tape.events[index][2].module, 1)
    traffic: dict[tuple[str, str, int], dict[int, list[int]]] = {}

    hosted = [0, 0, 0]

    def add(index: int, kind: str, rows: str, reads: int, size: int, launches: int = 1, equal: int = 1) -> None:
        stretch, times = stretches.at(index)
        times *= equal
        hosted[stretch] += times * (launches - 1)
        traffic.setdefault((kind, rows, reads), {}).setdefault(size, [0, 0, 0])[stretch] += times

    for index, (rows, size, info) in enumerate(tape.events):
        if size > 0:
            operation, equal = info.operation, copies.get(info.module, 1)
            counted, kind = "chunks" if operation in _PER_CHUNK else rows, _class_of(operation, info.label)
            written = 0 if operation in _NO_KERNEL else size if rows == "one" else size // equal
            add(index, kind, counted, 2 if operation in _TWO_INPUTS else 1, written, _LAUNCHES.get(operation, 1), equal)
    for index, rows, size in tape.in_place:
        add(index, "elementwise", rows, 2, size)
    return StepWork(
        tuple((product, (counts[0], counts[1], counts[2])) for product, counts in products.items()),
        tuple(_traffic(*key, counts) for key, counts in traffic.items()),
        (hosted[0], hosted[1], hosted[2]),
    )


def _class_of(operation: str, label: str) -> str:
    if operation.startswith("dequantize"):
        return "dequantization"
    return "loss" if label == "loss" else "elementwise"


class _Stretches:
    """Which stretch of the step an event belongs to, and how many equal layers it stands for."""

    def __init__(self, tape: Tape) -> None:
        self._backward = next((start for start, name in tape.phases if name == "backward"), len(tape.events))
        spans = [(*each.forward, each.times) for each in tape.repeats]
        spans += [(*each.backward, each.times) for each in tape.repeats if each.backward]
        self._repeats = sorted(spans)
        self._recomputed = tape.recomputations

    def at(self, index: int) -> tuple[int, int]:
        """(position in STRETCHES, times)."""
        found = bisect.bisect_right(self._repeats, (index, 1 << 60, 0)) - 1
        times = 1
        if found >= 0:
            _, end, repeated = self._repeats[found]
            times = repeated if index < end else 1
        if index < self._backward:
            return 0, times
        found = bisect.bisect_right(self._recomputed, (index, 1 << 60)) - 1
        inside = found >= 0 and index < self._recomputed[found][1]
        return (1 if inside else 2), times
