"""The tape as a timeline of bytes: loading, two training steps, every layer written out. What the allocator simulation replays.

The second step is the one that lasts: the optimizer's state exists, and the allocator has cached what the first step freed.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence

from ftadvise.estimator.estimate_types import Stack
from ftadvise.estimator.optimizers import step_timeline
from ftadvise.estimator.recipe import DTYPE_BYTES, Recipe
from ftadvise.estimator.static_memory import StaticMemory, quantization_constant_bytes
from ftadvise.estimator.tape.build import Setting, StepProfile, record_step
from ftadvise.estimator.tape.core import Event
from ftadvise.estimator.tape.profile import QUANTITIES, Vector
from ftadvise.estimator.timeline import Timeline
from ftadvise.profiles.model_spec import ModelSpec

STEPS = 2
_PRODUCTS = frozenset({"linear", "mm", "matmul", "bmm"})


def replay(
    spec: ModelSpec,
    recipe: Recipe,
    stack: Stack,
    setting: Setting,
    profile: StepProfile,
    static: StaticMemory,
    values: Vector,
    *,
    matmul_workspace_bytes: int = 0,
    steps: int = STEPS,
) -> Timeline:
    """Every storage of a run's start, in order; sizes in bytes for one recipe's quantities."""
    line = Timeline()
    counter = iter(range(1 << 62))
    for size, label in _weights(spec, recipe, stack, profile, static):
        line.append(next(counter), size, label=label, operation="load", module="", phase="load")
    for tensor in static.trained if recipe.method != "full" else ():
        for _ in range(tensor.count):
            line.append(next(counter), tensor.size_bytes, label="adapters", operation="load", module="", phase="load")
    # one workspace for each thread that multiplies, taken at its first product; where it lands decides how the cache falls apart
    workspaces = {phase: matmul_workspace_bytes // 2 for phase in ("forward", "backward") if matmul_workspace_bytes}
    recorded = record_step(spec, recipe, stack, setting)
    gradients: list[tuple[int, int]] = []
    for step in range(steps):
        accumulated = _gradients(static) if recipe.gradient_accumulation > 1 else []
        for size in accumulated:
            storage = next(counter)
            gradients.append((storage, size))
            line.append(storage, size, label="gradients", operation="accumulate", module="", phase="backward")
        gradients += _step(line, *recorded, values, counter, workspaces)
        _update(line, recipe, static, counter, setting, first_step=step == 0)
        for storage, size in gradients:
            line.append(storage, -size, label="gradients", operation="zero_grad", module="", phase="optimizer_step")
        gradients = []
    return line


def _weights(spec: ModelSpec, recipe: Recipe, stack: Stack, profile: StepProfile, static: StaticMemory) -> Iterator[tuple[int, str]]:
    """The tensors of the loaded model: each linear layer, its constants, the embedding and head, and the rest in one piece per layer."""
    full_width = 4 if recipe.method == "full" and stack.full_dtype == "fp32" else DTYPE_BYTES[recipe.compute_dtype]
    upcast = stack.kbit_upcast == "all" and recipe.quantization != "none"
    other = 4 if upcast else full_width
    left = static.weights
    embedding = spec.vocab_size * spec.hidden_size * other
    for size in [embedding] * (1 if spec.tie_word_embeddings else 2):
        left -= size
        yield size, "weights"
    for linear in profile.linears:
        size = linear.weight_elements * full_width
        if linear.quantized:
            size = linear.weight_elements if recipe.quantization == "int8" else (linear.weight_elements + 1) // 2
        for _ in range(linear.count):
            left -= size
            yield size, "weights"
            if linear.quantized:
                yield quantization_constant_bytes(linear, recipe), "quantization_constants"
    pieces = max(1, spec.num_layers)
    for _ in range(pieces):
        if left > 0:
            yield max(1, left // pieces), "weights"


def _gradients(static: StaticMemory) -> list[int]:
    return [tensor.size_bytes for tensor in static.trained for _ in range(tensor.count)]


def _step(
    line: Timeline,
    events: Sequence[Event],
    phases: Sequence[tuple[int, str]],
    values: Vector,
    counter: Iterator[int],
    workspaces: dict[str, int],
) -> list[tuple[int, int]]:
    """One micro batch; returns the gradients that it leaves."""
    index = {name: values[position] for position, name in enumerate(QUANTITIES)}
    starts, names = [start for start, _ in phases], [name for _, name in phases]
    taken: dict[int, tuple[int, int]] = {}
    left: dict[int, tuple[int, int]] = {}
    for position, (rows, size, info) in enumerate(events):
        size_bytes = size * index[rows]
        if size_bytes == 0:
            continue
        if size > 0:
            storage = next(counter)
            taken[id(info)] = left[id(info)] = (storage, size_bytes)
        else:
            storage = taken[id(info)][0]
            left.pop(id(info))
        phase = names[max(0, bisect.bisect_right(starts, position) - 1)]
        line.append(storage, size_bytes, label=info.label, operation=info.operation, module=info.module, phase=phase)
        if phase in workspaces and size > 0 and info.operation in _PRODUCTS:
            line.append(next(counter), workspaces.pop(phase), label="workspace", operation="cublas", module="", phase=phase)
    return list(left.values())


def _update(line: Timeline, recipe: Recipe, static: StaticMemory, counter: Iterator[int], setting: Setting, *, first_step: bool) -> None:
    device = "cuda" if setting.like_cuda else "cpu"
    update = step_timeline(recipe.optimizer, static.trained, device=device, first_step=first_step)
    numbers: dict[int, int] = {}
    for storage, size, label in zip(update.storages, update.sizes, update.labels, strict=True):
        if storage not in numbers:
            numbers[storage] = next(counter)
        line.append(numbers[storage], size, label=label, operation="optimizer", module="", phase="optimizer_step")
