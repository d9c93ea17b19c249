"""What finished runs on this device say about a prediction: the ratio by which runs like this one were faster or slower than predicted."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any

from ftadvise.estimator.calibration import Calibration, Device, RunRecord, installed_version, rates_name
from ftadvise.estimator.estimate_types import Stack
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.model_spec import ModelSpec

_NEWEST = 9
"""Runs that count: enough for a spread, few enough that a machine that has changed is believed soon."""
_LEAST_SPREAD = {"model": 1.15, "others": 1.25}
"""The interval's half width, a factor, however well runs agree: runs of one model differ by batch and length, other models by more."""
_NORMAL_90 = 1.645


@dataclass(frozen=True, slots=True)
class Correction:
    """Multiples of the speed that was predicted without it: what to expect, and between which 90 of 100 runs lie.

    Args:
        count: runs that it is from.
        same_model: they were runs of this very model.
    """

    ratio: float
    low: float
    high: float
    count: int
    same_model: bool


def speed_correction(calibration: Calibration, hardware: Hardware, model: ModelSpec, recipe: Recipe, stack: Stack) -> Correction | None:
    """The correction that runs like this one suggest, or None without such runs.

    Like this one: on the same device with the same versions, by the same training code, with the same quantisation, compute dtype and
    sharding, both full fine-tuning or both not, and predicted by this version from the same rates. Where there are such runs of the same
    model they alone count, else those of all models. Of the newest nine the ratio is the geometric median of measured / predicted (one
    run on a busy machine does not move it), and the interval 1.645 standard deviations of its logarithm, at least a factor of 1.15 for
    the same model and of 1.25 for others. n runs of other models count n / (n + 1): the prediction itself, whose error is about as large
    as what such runs differ by, counts as one more that was right.
    """
    return correction_of_kind(calibration, hardware, model.id, stack.name, kind_of(recipe))


def kind_of(recipe: Recipe) -> tuple[bool, str, str, str]:
    """What two recipes must share for the speed of one to say something about the other."""
    return (recipe.method == "full", recipe.quantization, recipe.compute_dtype, recipe.sharding)


def correction_of_kind(
    calibration: Calibration, hardware: Hardware, model_id: str, stack_name: str, kind: tuple[bool, str, str, str]
) -> Correction | None:
    """`speed_correction` by what it depends on."""
    device = Device.of(hardware)
    if device is None or not calibration.runs:
        return None
    wanted = (rates_name(hardware, calibration), installed_version("ftadvise"), stack_name, kind)
    quantizer = installed_version("bitsandbytes") if kind[1] != "none" else None
    alike = [
        run
        for run in calibration.runs
        if run.device == device
        and (run.rates, run.ftadvise, run.stack, _kind(run)) == wanted
        and (quantizer is None or run.versions.get("bitsandbytes") == quantizer)
    ]
    same = [run for run in alike if run.model == model_id]
    return _correction(same or alike, same_model=bool(same))


def _correction(runs: list[RunRecord], *, same_model: bool) -> Correction | None:
    if not runs:
        return None
    logs = [math.log(run.measured_tokens_per_second / run.predicted_tokens_per_second) for run in runs[-_NEWEST:]]
    middle = statistics.median(logs) * (1.0 if same_model else len(logs) / (len(logs) + 1))
    spread = _NORMAL_90 * statistics.stdev(logs) if len(logs) > 1 else 0.0
    spread = max(spread, math.log(_LEAST_SPREAD["model" if same_model else "others"]))
    return Correction(math.exp(middle), math.exp(middle - spread), math.exp(middle + spread), len(logs), same_model)


def _kind(run: RunRecord) -> tuple[Any, ...]:
    recipe = run.recipe
    return (recipe.get("method") == "full", *(recipe.get(name) for name in ("quantization", "compute_dtype", "sharding")))
