"""Time of one optimizer step, by class of work. Seconds.

    micro batch   products at the roofline (product_time.py), element-wise traffic over bandwidth, expanded weights over the rate of
                  de-quantisation, and for every operation the fixed time of a kernel
    host          operations x the time Python, or the autograd engine, needs to launch one
    step          accumulation x max(device, host) + optimizer + communication that computation does not hide

The host runs ahead of a GPU, so the slower of the two decides; on a CPU they are one, and add up.
Ignored: data loading (it runs in other processes), logging, checkpoints on disk, the first steps (autotuning, allocation).
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Literal

from ftadvise.estimator.recipe import DTYPE_BYTES, Recipe
from ftadvise.estimator.recorded_step import RecordedStep
from ftadvise.estimator.speed.collectives import exposed_seconds, sent_bytes, unit_operations
from ftadvise.estimator.speed.optimizer_time import optimizer_seconds
from ftadvise.estimator.speed.product_time import product_cost
from ftadvise.estimator.speed.rates import Rates
from ftadvise.estimator.tape.profile import QUANTITIES, Vector
from ftadvise.estimator.tape.work import STRETCHES, Stretch

CLASSES = ("matmul", "adapters", "attention", "elementwise", "dequantization", "loss", "optimizer", "communication", "launch")
"""launch: what the host, or the fixed time of kernels, adds."""

_CLASS_OF = {
    "matmul": "matmul",
    "adapter": "adapters",
    "attention": "attention",
    "attention_backward": "attention",
    "scores": "attention",
    "loss": "loss",
}
_INDEX = {name: index for index, name in enumerate(QUANTITIES)}
_COMPUTE = ("matmul", "adapters", "attention")
_WIDE = DTYPE_BYTES["fp32"]
_STRETCHES = range(len(STRETCHES))
_NONE = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class StepTime:
    """One optimizer step. `shares`: seconds by class, which sum to `seconds`; `stretches`: device seconds of one micro batch by stretch.

    `model_flops`: of the forward and backward pass alone, without what is computed again.
    """

    seconds: float
    shares: dict[str, float]
    stretches: dict[Stretch, float]
    model_flops: float
    host_seconds: float
    device_seconds: float

    @property
    def bound_by(self) -> Literal["compute", "memory", "overhead"]:
        """What a faster device of which kind would help: arithmetic, bandwidth, or neither."""
        compute = sum(self.shares[name] for name in _COMPUTE) + self.shares["loss"]
        overhead = self.shares["launch"] + self.shares["communication"]
        memory = self.seconds - compute - overhead
        largest = max(compute, memory, overhead)
        return "compute" if largest == compute else "memory" if largest == memory else "overhead"


def step_time(
    step: RecordedStep, recipe: Recipe, rates: Rates, *, gpus: int, on_gpu: bool, layers: int, parameters: int
) -> StepTime | None:
    """The time of an optimizer step, or None where the device has no rate for a dtype that it needs.

    Args:
        parameters: bytes of the whole model, which sharded training gathers.
    """
    units = unit_operations(recipe, gpus, layers=layers, tensors=step.profile.trained_tensors)
    micro = _micro_batch(step, recipe, rates, units)
    if micro is None:
        return None
    return _whole(micro, step, recipe, rates, gpus=gpus, on_gpu=on_gpu, layers=layers, parameters=parameters)


@dataclass(slots=True)
class _MicroBatch:
    """Seconds of one micro batch: on the device by class and by stretch, and of the host; model FLOPs."""

    classes: dict[str, float]
    stretches: list[float]
    host: float
    model_flops: float


def _micro_batch(step: RecordedStep, recipe: Recipe, rates: Rates, units: int) -> _MicroBatch | None:
    """`units`: operations that sharding adds to each pass."""
    classes, stretches, values = dict.fromkeys(CLASSES, 0.0), [0.0, 0.0, 0.0], step.values
    model_flops, work = 0.0, step.profile.work
    narrow, wide = _matmul_rates(recipe, rates)
    for product, (forward, again, backward) in work.products:
        flops_per_s = wide if product.item == _WIDE else narrow
        if flops_per_s is None:
            return None
        flops, seconds = product_cost(product, values, rates, flops_per_s)
        classes[_CLASS_OF[product.kind]] += seconds * (forward + again + backward)
        stretches[0] += seconds * forward
        stretches[1] += seconds * again
        stretches[2] += seconds * backward
        model_flops += flops * (forward + backward)
    chunks, fixed, operations = _chunks(values), rates.kernel_s, [0, 0, 0]
    per_byte = {reads: _seconds_per_byte(reads, rates) for reads in (1, 2)}
    expanded = 1 / rates.dequantize_bytes_per_s[recipe.quantization] if recipe.quantization != "none" else 0.0
    for traffic in work.traffic:
        value = 1 if traffic.rows == "chunks" else values[_INDEX[traffic.rows]]
        times = chunks if traffic.rows in ("chunk", "chunks") else 1
        near_s, far_s = (expanded, expanded) if traffic.kind == "dequantization" else per_byte[traffic.reads]
        # sizes up to here, with what they read, stay in the cache
        cached = bisect.bisect_right(traffic.sizes, rates.cache_bytes / ((1 + traffic.reads) * value)) if value else 0
        near = traffic.bytes[cached - 1] if cached else _NONE
        written, counts, far_s, saved_s = traffic.bytes[-1], traffic.operations[-1], far_s * value * times, (far_s - near_s) * value * times
        for stretch in _STRETCHES:
            seconds = written[stretch] * far_s - near[stretch] * saved_s
            classes[traffic.kind] += seconds
            stretches[stretch] += seconds
            operations[stretch] += counts[stretch] * times
    for stretch in _STRETCHES:
        stretches[stretch] += fixed * operations[stretch]
    classes["launch"] = fixed * sum(operations)
    launches = [operation + hosted + units for operation, hosted in zip(operations, work.hosted, strict=True)]
    host = (launches[0] + launches[1]) * rates.host_s["forward"] + launches[2] * rates.host_s["backward"]
    return _MicroBatch(classes, stretches, host, model_flops)


def _seconds_per_byte(reads: int, rates: Rates) -> tuple[float, float]:
    """For a byte written and `reads` bytes read: from the cache, where what was written a moment ago is still there, and from memory."""
    write = 1 / rates.bandwidth_bytes_per_s
    return write + reads / (rates.cache_bytes_per_s or rates.bandwidth_bytes_per_s), write * (1 + reads)


def _whole(
    micro: _MicroBatch, step: RecordedStep, recipe: Recipe, rates: Rates, *, gpus: int, on_gpu: bool, layers: int, parameters: int
) -> StepTime:
    passes, shares = recipe.gradient_accumulation, micro.classes
    device = sum(micro.stretches)
    waiting = max(0.0, micro.host - device) if on_gpu else micro.host
    shares["launch"] += waiting
    for name in shares:
        shares[name] *= passes
    whole, tensors = _trained(step)
    trained = whole
    if recipe.sharding in ("zero1", "zero2", "zero3", "fsdp"):
        trained = {item: -(-elements // gpus) for item, elements in trained.items()}
    optimizer, host = optimizer_seconds(recipe, trained, tensors, rates)
    shares["optimizer"] = optimizer
    shares["launch"] += max(0.0, host - optimizer) if on_gpu else host
    gradients = sum(item * elements for item, elements in whole.items())
    sent = sent_bytes(recipe, gpus, parameters=parameters, gradients=gradients)
    shares["communication"] = exposed_seconds(sent, rates, passes * (device + waiting))
    return StepTime(
        seconds=sum(shares.values()),
        shares=shares,
        stretches=dict(zip(STRETCHES, micro.stretches, strict=True)),
        model_flops=micro.model_flops * passes,
        host_seconds=micro.host * passes + host,
        device_seconds=device * passes + optimizer,
    )


def _trained(step: RecordedStep) -> tuple[dict[int, int], int]:
    """(trained elements by bytes per element, number of tensors)."""
    elements: dict[int, int] = {}
    for (rows, item), width in step.profile.trained_widths.items():
        elements[item] = elements.get(item, 0) + width * step.values[_INDEX[rows]]
    return elements, step.profile.trained_tensors


def _chunks(values: Vector) -> int:
    chunk = values[_INDEX["chunk"]]
    return -(-values[_INDEX["loss_tokens"]] // chunk) if chunk else 1


def _matmul_rates(recipe: Recipe, rates: Rates) -> tuple[float | None, float | None]:
    """(of 16-bit products, of fp32 products); int8 ones, whose rate few publish, run at that of 16 bits. None: the device has none."""
    half = recipe.compute_dtype if recipe.compute_dtype != "fp32" else "bf16" if "bf16" in rates.matmul_flops_per_s else "fp16"
    narrow, wide = rates.matmul_flops_per_s.get(half), rates.matmul_flops_per_s.get("fp32")
    return narrow and narrow * rates.sustained, wide and wide * rates.sustained
