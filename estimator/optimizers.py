"""Memory of the optimizers: state, temporaries of a step, gradient clipping. Bytes, from the list of trained tensors; no torch.

The update functions below repeat, statement by statement, what the real optimizer's code holds: `bind` is an assignment to a Python
variable (the new value exists before the old one goes), `transient` an expression whose value is dropped. So the lifetimes come out
as in the real run, and peaks and event lists are read from the same functions.

Optimizers as the transformers Trainer makes them: two parameter groups (everything but norms and biases first), no weight decay.

    adamw_torch        two moments in the dtype of the parameter; step counters stay on the CPU. CUDA: all tensors of a group and dtype
                       together (foreach), one list of square roots as large as the parameters. CPU: tensor by tensor.
                       Since torch 2.1 (pytorch pull request 104898); 2.0 made a second such list.
    adamw_torch_fused  the same moments, counters on the device, no temporaries
    sgd                no momentum, no state; with weight decay it would copy the gradients
    adafactor          row and column means of the squared gradient in fp32 (the full square for vectors) and one RMS per tensor;
                       tensor by tensor, up to four fp32 copies of a half-precision tensor at once (two of an fp32 one)
    8-bit              one byte per element and moment, an fp32 absmax per 256 elements, two code books of 1 KiB shared by all tensors;
                       tensors under 4,096 elements and nn.Embedding weights keep fp32 state
    paged              state of tensors from 100,000 elements on is in managed memory (cudaMallocManaged): outside torch's allocator,
                       on the device while used, evictable. Absmax and small tensors are ordinary memory. On the CPU nothing is paged.

The kernels of bitsandbytes work in place on CUDA. Left out: on the CPU, where our runner does not use them, they make fp32 copies of one
tensor at a time inside a single operation.

Sources: torch 2.13 optim/adam.py, optim/sgd.py, nn/utils/clip_grad.py, aten ForeachReduceOp.cu (65,536-element chunks);
transformers 5.23 trainer_optimizer.py, trainer.py (create_optimizer), optimization.py (Adafactor); bitsandbytes 0.50
optim/optimizer.py, backends/cuda/ops.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Literal

from ftadvise.estimator.recipe import Optimizer
from ftadvise.estimator.timeline import Timeline

GRAD_SCALER_BYTES = 12
"""torch.amp.GradScaler, which fp16 training adds: the scale (fp32), the growth counter (int32) and the overflow flag (fp32)."""

_BLOCK = 256
_SMALL = 4096
PAGED_FROM = 100_000
_CODE_BOOK_BYTES = 256 * 4
NORM_CHUNK = 65_536


@dataclass(frozen=True, slots=True)
class TrainedTensor:
    """`count` equal tensors that the optimizer updates.

    Neighbours with the same count above 1 are one block that repeats, as a model's layers do: the order of update is the first of
    each, the second of each, and so on.

    Attributes:
        elements: of one tensor.
        rows, columns: the last two widths; 0 for a vector.
        dtype_bytes: per element of the parameter; its gradient has the same dtype.
        count: how many such tensors.
        decays: in the Trainer's first parameter group; False for norms and biases.
        embedding: the weight of an nn.Embedding, whose state 8-bit optimizers keep in fp32.
        averages: running averages of its size that a rank schedule keeps after each step (AdaLoRA: two).
    """

    elements: int
    rows: int
    columns: int
    dtype_bytes: int
    count: int = 1
    decays: bool = True
    embedding: bool = False
    averages: int = 0

    @classmethod
    def of_shape(
        cls, shape: Sequence[int], dtype_bytes: int, *, count: int = 1, decays: bool = True, embedding: bool = False, averages: int = 0
    ) -> TrainedTensor:
        """From a parameter's shape."""
        elements = 1
        for width in shape:
            elements *= width
        rows, columns = (shape[-2], shape[-1]) if len(shape) > 1 else (0, 0)
        return cls(elements, rows, columns, dtype_bytes, count, decays, embedding, averages)

    @property
    def size_bytes(self) -> int:
        """Of one parameter, which is also the size of its gradient."""
        return self.elements * self.dtype_bytes


@dataclass(frozen=True, slots=True)
class OptimizerMemory:
    """What an optimizer needs beside parameters and gradients.

    Attributes:
        state_bytes: on the training device, in torch's allocator, from the first step on.
        state_paged_bytes: in managed memory (paged optimizers on CUDA): on the device while used, evictable.
        first_step_peak_bytes: the most at once during the first step beyond `state_bytes`; state is created as the step goes along.
        step_peak_bytes: the same for every later step: temporaries only.
        clip_peak_bytes: temporaries of gradient clipping, before the step. transformers 5 takes the norm even when it does not clip.
    """

    state_bytes: int
    state_paged_bytes: int
    first_step_peak_bytes: int
    step_peak_bytes: int
    clip_peak_bytes: int


def optimizer_memory(optimizer: Optimizer, tensors: Sequence[TrainedTensor], *, device: str) -> OptimizerMemory:
    """State and temporaries of one optimizer on "cuda" or "cpu"; exact for tensors in the order of the model's parameters."""
    return _optimizer_memory(optimizer, tuple(tensors), device)


@lru_cache(maxsize=1024)
def _optimizer_memory(optimizer: Optimizer, tensors: tuple[TrainedTensor, ...], device: str) -> OptimizerMemory:
    first, later, clip = _Memory(), _Memory(), _Memory()
    _step(first, optimizer, tensors, device, first_step=True)
    _step(later, optimizer, tensors, device, first_step=False)
    _clip(clip, tensors, device)
    paged = sum(t.count * sum(_moments(optimizer, t)) for t in tensors if _is_paged(optimizer, t, device))
    return OptimizerMemory(first.live, paged, first.peak - first.live, later.peak, clip.peak)


def step_timeline(optimizer: Optimizer, tensors: Sequence[TrainedTensor], *, device: str, first_step: bool) -> Timeline:
    """Every storage that gradient clipping and one optimizer step take and release, in order, in the phase "optimizer_step".

    Storages are numbered from 0. State is taken in the first step and not released; paged state is not torch's and not in the list.
    """
    timeline = Timeline()
    memory = _Memory(timeline)
    _clip(memory, tensors, device)
    _step(memory, optimizer, tensors, device, first_step=first_step)
    return timeline


class _Memory:
    """Bytes held now and at most, in variables and as state. Sizes are (bytes, how many such storages)."""

    def __init__(self, timeline: Timeline | None = None) -> None:
        self.live = self.peak = 0
        self._variables: dict[str, list[tuple[int, int, int]]] = {}  # first storage, bytes, how many
        self._timeline = timeline
        self.keeps_events = timeline is not None
        self._storages = 0

    def state(self, *sizes: tuple[int, int]) -> None:
        """Take for good."""
        self._take(sizes, "optimizer_state")

    def bind(self, variable: str, *sizes: tuple[int, int], operands: Sequence[tuple[int, int]] = ()) -> None:
        """Assign an expression to a variable: its operands, then its value; the operands go, and then what the variable held before."""
        operands_taken = self._take(operands, "workspace")
        taken = self._take(sizes, "workspace")
        self._release(operands_taken)
        self.drop(variable)
        self._variables[variable] = taken

    def transient(self, *sizes: tuple[int, int]) -> None:
        """Take all of them and release them again."""
        self._release(self._take(sizes, "workspace"))

    def drop(self, *variables: str) -> None:
        """Release variables; Python releases the last item of a list first."""
        for variable in variables:
            self._release(reversed(self._variables.pop(variable, [])))

    def _take(self, sizes: Sequence[tuple[int, int]], label: str) -> list[tuple[int, int, int]]:
        taken = []
        for size, count in sizes:
            if size and count:
                taken.append((self._storages, size, count))
                self._events(taken[-1], size, label)
                self._storages += count
                self.live += size * count
        self.peak = max(self.peak, self.live)
        return taken

    def _release(self, taken: Iterable[tuple[int, int, int]]) -> None:
        for entry in taken:
            self.live -= entry[1] * entry[2]
            self._events(entry, -entry[1], "workspace")

    def _events(self, entry: tuple[int, int, int], size: int, label: str) -> None:
        if self._timeline is not None:
            for storage in range(entry[0], entry[0] + entry[2]):
                self._timeline.append(storage, size, label=label, operation="optimizer", module="", phase="optimizer_step")


def _step(memory: _Memory, optimizer: Optimizer, tensors: Sequence[TrainedTensor], device: str, *, first_step: bool) -> None:
    if first_step:
        memory.state((_CODE_BOOK_BYTES, _code_books(optimizer, tensors, device)))
    one_by_one = optimizer == "adafactor" or (optimizer == "adamw_torch" and device == "cpu")
    for decays in (True, False):
        group = [tensor for tensor in tensors if tensor.decays is decays]
        order = list(_in_order(group, "all" if memory.keeps_events else "ends" if one_by_one else "none"))
        if optimizer in ("adamw_torch", "adamw_torch_fused"):
            _adamw(memory, optimizer, order, device, first_step=first_step)
            continue
        for tensor, together in order:
            state = _state(optimizer, tensor, device, together) if first_step else []
            if optimizer == "adafactor" and together == 1:
                _adafactor(memory, tensor, state)
            else:
                memory.state(*state)
    memory.drop("grad", "p_data_fp32", "update")
    if first_step:
        memory.state(*((tensor.size_bytes, tensor.averages * tensor.count) for tensor in tensors))


def _in_order(tensors: Sequence[TrainedTensor], written_out: Literal["all", "ends", "none"]) -> Iterator[tuple[TrainedTensor, int]]:
    """The tensors in the order of their update, and how many are taken together.

    "ends" writes out the first and the last repetition of a block: nothing peaks between them that does not peak in the last, which
    has more state. "none" is for optimizers to which the order makes no difference.
    """
    for count, entries in groupby(tensors, key=lambda tensor: tensor.count):
        block = list(entries)
        if written_out == "none":
            repeats = [count]
        elif written_out == "ends" and count > 2:
            repeats = [1, count - 2, 1]
        else:
            repeats = [1] * count
        yield from ((tensor, together) for together in repeats for tensor in block)


def _state(optimizer: Optimizer, tensor: TrainedTensor, device: str, count: int) -> list[tuple[int, int]]:
    """What `count` such tensors keep on the device outside managed memory, as (bytes, how many)."""
    if optimizer in ("adamw_torch", "adamw_torch_fused"):
        counter = 4 if device == "cpu" or optimizer == "adamw_torch_fused" else 0
        return [(counter, count), (tensor.size_bytes, 2 * count)]
    if optimizer == "sgd":
        return []
    if optimizer == "adafactor":
        return [(4 * elements, count) for elements in (*_means(tensor), 1)]
    moments = [] if _is_paged(optimizer, tensor, device) else _moments(optimizer, tensor)
    absmax = 4 * -(-tensor.elements // _BLOCK) if _is_8bit(optimizer, tensor) else 0
    return [(size, count) for size in moments] + [(absmax, count * _moment_count(optimizer))]


def _means(tensor: TrainedTensor) -> tuple[int, ...]:
    """Elements of what Adafactor keeps of the squared gradient: means over rows and columns (a pair per matrix of a stack), or all."""
    return (tensor.elements // tensor.columns, tensor.elements // tensor.rows) if tensor.columns else (tensor.elements,)


def _moment_count(optimizer: Optimizer) -> int:
    return 1 if optimizer.startswith("lion") else 2


def _moments(optimizer: Optimizer, tensor: TrainedTensor) -> list[int]:
    return [tensor.elements * (1 if _is_8bit(optimizer, tensor) else 4)] * _moment_count(optimizer)


def _is_8bit(optimizer: Optimizer, tensor: TrainedTensor) -> bool:
    return optimizer.endswith("8bit") and tensor.elements >= _SMALL and not tensor.embedding


def _is_paged(optimizer: Optimizer, tensor: TrainedTensor, device: str) -> bool:
    return optimizer.startswith("paged") and device == "cuda" and tensor.elements >= PAGED_FROM


def _code_books(optimizer: Optimizer, tensors: Sequence[TrainedTensor], device: str) -> int:
    """How many are on the device: two are made on the CPU, and those in use move with the first 8-bit tensor."""
    if device == "cpu":
        return 2 if optimizer.endswith("8bit") else 0
    return _moment_count(optimizer) if any(_is_8bit(optimizer, tensor) for tensor in tensors) else 0


def _adamw(memory: _Memory, optimizer: Optimizer, order: Sequence[tuple[TrainedTensor, int]], device: str, *, first_step: bool) -> None:
    """torch.optim.adam: makes the whole group's state, then updates it (_multi_tensor_adam on CUDA, _single_tensor_adam on the CPU)."""
    if first_step:
        for tensor, together in order:
            memory.state(*_state(optimizer, tensor, device, together))
    if optimizer == "adamw_torch" and device == "cpu":
        for tensor, together in order:
            if together == 1:
                size = (tensor.size_bytes, 1)
                memory.bind("denom", size, operands=[size])  # exp_avg_sq.sqrt() / bias_correction2_sqrt
    elif optimizer == "adamw_torch":
        for dtype_bytes in {tensor.dtype_bytes for tensor, _ in order}:  # the list of one dtype is bound while the next is made
            sizes = [(tensor.size_bytes, together) for tensor, together in order if tensor.dtype_bytes == dtype_bytes]
            memory.bind("exp_avg_sq_sqrt", *sizes)
    memory.drop("denom", "exp_avg_sq_sqrt")


def _adafactor(memory: _Memory, tensor: TrainedTensor, state: Sequence[tuple[int, int]]) -> None:
    """transformers.optimization.Adafactor.step with scale_parameter and relative_step off. Its variables outlive a tensor's turn."""
    single = (4 * tensor.elements, 1)
    cast = single if tensor.dtype_bytes < 4 else (0, 0)
    means = [(4 * elements, 1) for elements in _means(tensor)] if tensor.columns else []
    memory.drop("grad")
    memory.bind("grad", cast)
    memory.state(*state)
    memory.drop("p_data_fp32")
    memory.bind("p_data_fp32", cast)
    memory.bind("update", single, operands=[single])  # grad**2 + eps
    for mean in means:
        memory.transient(mean)
    memory.bind("update", single, operands=means)  # the product of two factors, or the root
    memory.transient(single)  # -update


def _clip(memory: _Memory, tensors: Sequence[TrainedTensor], device: str) -> None:
    """torch.nn.utils.clip_grad_norm_: a norm per gradient, all of one dtype together; gradients are scaled in place.

    The CUDA kernel also takes one fp32 per tensor and chunk of the largest tensor.
    """
    norms: list[tuple[int, int]] = []
    for dtype_bytes in sorted({tensor.dtype_bytes for tensor in tensors}):
        alike = [tensor for tensor in tensors if tensor.dtype_bytes == dtype_bytes]
        norms.append((dtype_bytes, sum(tensor.count for tensor in alike)))
        chunks = -(-max(tensor.elements for tensor in alike) // NORM_CHUNK) if device == "cuda" else 0
        memory.bind("workspace", (4 * chunks * norms[-1][1], 1))
        memory.bind(f"norms {dtype_bytes}", norms[-1])
        memory.drop("workspace")
    if norms:
        widest = norms[-1][0]
        memory.transient((widest * sum(count for _, count in norms), 1), (widest, 1))  # the stacked norms and their norm
        memory.drop(*(f"norms {dtype_bytes}" for dtype_bytes, _ in norms))
