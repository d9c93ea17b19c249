"""How fast a recipe trains: the time of a recorded step at a device's rates, and how sure that is."""

from __future__ import annotations

from ftadvise.estimator.activations import Batch
from ftadvise.estimator.estimate_types import Stack, ThroughputEstimate
from ftadvise.estimator.recipe import DTYPE_BYTES, Recipe
from ftadvise.estimator.recorded_step import RecordedStep, recorded_step
from ftadvise.estimator.speed.calibrated import correction_for, rates_for
from ftadvise.estimator.speed.rates import Rates
from ftadvise.estimator.speed.step_time import StepTime, step_time
from ftadvise.estimator.tape.decoders import is_described
from ftadvise.profiles.hardware import Gpu, Hardware
from ftadvise.profiles.model_spec import ModelSpec

_UNDESCRIBED = 1.3
"""A model whose layers nobody described is timed like Llama; its interval is wider by this factor on each side."""
_QUANTIZED_BYTES = {"nf4": 0.53, "fp4": 0.53, "int8": 1.0}


def estimate_throughput(
    model: ModelSpec,
    hardware: Hardware,
    recipe: Recipe,
    stack: Stack,
    *,
    batch: Batch | None = None,
    step: RecordedStep | None = None,
    rates: Rates | None = None,
) -> ThroughputEstimate | None:
    """Tokens per second of all GPUs together (padded) and seconds per optimizer step, or None when the device's rates are not known, or
    part of the model lives in host memory: what the bus and the host's processor take for that is not modelled.

    Args:
        batch: the micro batch that occurs on average; by default the largest the recipe allows.
        step: what `recorded_step` says of all these, where the caller knows it.
        rates: instead of those of the device's data sheet or calibration.
    """
    corrects = rates is None
    rates = rates or rates_for(hardware)
    if rates is None or recipe.offload != "none":
        return None
    step = step or recorded_step(model, hardware, recipe, stack, batch)
    gpus = max(1, len(hardware.gpus)) if recipe.sharding != "none" else 1
    parameters = model.total_params * _QUANTIZED_BYTES.get(recipe.quantization, DTYPE_BYTES[recipe.compute_dtype])
    on_gpu = hardware.gpu is not None
    time = step_time(step, recipe, rates, gpus=gpus, on_gpu=on_gpu, layers=model.num_layers, parameters=int(parameters))
    if time is None:
        return None
    tokens = step.batch.tokens * recipe.gradient_accumulation * gpus
    correction = correction_for(hardware, model, recipe, stack) if corrects else None
    ratio = correction.ratio if correction else 1.0
    low, high = (correction.low, correction.high) if correction else _interval(model, rates, time)
    speed = tokens / time.seconds
    return ThroughputEstimate(
        tokens_per_second=speed * ratio,
        seconds_per_step=time.seconds / ratio,
        low=speed * low,
        high=speed * high,
        bound_by=time.bound_by,
        shares={name: seconds / time.seconds for name, seconds in time.shares.items() if seconds},
        stretches={name: seconds / sum(time.stretches.values()) for name, seconds in time.stretches.items()},
        mfu=_utilisation(time, hardware.gpu, recipe, ratio),
        basis="measured" if correction and correction.same_model else "calibrated" if correction else rates.basis,
    )


def _interval(model: ModelSpec, rates: Rates, time: StepTime) -> tuple[float, float]:
    """As multiples of the estimate: the device's, wider for a model that nobody described and where a host of unknown speed decides."""
    low, high = rates.interval
    low /= 1 + time.shares["launch"] / time.seconds * (rates.host_spread - 1)
    return (low, high) if is_described(model) else (low / _UNDESCRIBED, high * _UNDESCRIBED)


def _utilisation(time: StepTime, gpu: Gpu | None, recipe: Recipe, ratio: float) -> float | None:
    """Model FLOPs utilisation: the work of the forward and the backward pass, over what the data sheet's rate would do in that time."""
    if gpu is None:
        return None
    peak = {"bf16": gpu.bf16_flops_per_s, "fp16": gpu.fp16_flops_per_s or gpu.fp32_flops_per_s, "fp32": gpu.fp32_flops_per_s}[
        recipe.compute_dtype
    ]
    return time.model_flops * ratio / (time.seconds * peak) if peak else None
