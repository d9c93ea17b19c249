"""The bottleneck in words: where a step's time goes, and what would make it shorter or smaller on this machine.

D3 §1 tells two shortages apart, of memory and of computing, and what to change for each. Here every change is priced: the recipe with
that one thing different, on the same machine. Only what gains more than the estimate's own error is told.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ftadvise.advisor.candidates import adapter_dtype
from ftadvise.advisor.plan_types import Bottleneck
from ftadvise.advisor.search import Price
from ftadvise.advisor.texts import Text, gib, message
from ftadvise.estimator.estimate_types import Estimate, ThroughputEstimate
from ftadvise.estimator.lengths import LengthStats
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import FtadviseError

_LISTED = 3
_LEAST_SHARE = 0.05
"""Of a step's time, to be named; of its speed or of the memory in use, for a change to be worth telling."""
_COMPUTE, _OVERHEAD = ("matmul", "adapters", "attention", "loss"), ("launch", "communication")
"""Classes of work in `ThroughputEstimate.shares` by what they need, as for `StepTime.bound_by`; the others need bandwidth."""
_SHARE_OF_LEVER = {
    "no_quantization": "dequantization",
    "larger_batch": "launch",
    "fused_attention": "attention",
    "fused_loss": "loss",
    "fused_optimizer": "optimizer",
}
"""The class of work that a change takes away or makes smaller."""


class _Lever(NamedTuple):
    """One change to a recipe: `planner.lever_<name>` says why it helps."""

    name: str
    changes: Mapping[str, Any]


def bottleneck(estimate: Estimate, price: Price, lengths: LengthStats | None = None) -> Bottleneck | None:
    """What limits a recipe, and what would change that; None where its speed is not known.

    Args:
        price: the estimate of a recipe for the same model on the same machine; called about ten times.
        lengths: of the data, which say what packing would gain.
    """
    speed = estimate.throughput
    if speed is None:
        return None
    return Bottleneck(
        bound=_bound(speed),
        faster=_told(_faster(estimate, price, lengths)),
        smaller=_told(_smaller(estimate, price, lengths)),
    )


def _bound(speed: ThroughputEstimate) -> Text:
    """What the step is bound by and how much of it that is; the classes of work of this kind, then the others; what is computed twice."""
    own = {name for name in speed.shares if _kind(name) == speed.bound_by}
    total = sum(speed.shares[name] for name in own)
    text = message(
        f"bound_{speed.bound_by}",
        total=f"{100 * total:.0f}",
        parts=_parts({name: share for name, share in speed.shares.items() if name in own}),
    )
    rest = {name: share for name, share in speed.shares.items() if name not in own and share >= _LEAST_SHARE}
    if rest:
        text = _joined(text, message("bound_beside", parts=_parts(rest)))
    twice = speed.stretches.get("recomputation", 0.0)
    return _joined(text, message("bound_twice", percent=f"{100 * twice:.0f}")) if twice >= _LEAST_SHARE else text


def _kind(name: str) -> str:
    return "compute" if name in _COMPUTE else "overhead" if name in _OVERHEAD else "memory"


def _parts(shares: Mapping[str, float]) -> Text:
    """The classes of work with their shares, largest first; the smallest are left out."""
    largest = sorted(shares.items(), key=lambda each: -each[1])
    words = [(message(f"work_{name}"), f"{100 * share:.0f} %") for name, share in largest if share >= _LEAST_SHARE]
    words = words or [(message(f"work_{name}"), f"{100 * share:.0f} %") for name, share in largest[:1]]
    return Text(", ".join(f"{w.en} {p}" for w, p in words), "、".join(f"{w.zh} {p}" for w, p in words))


def _joined(first: Text, second: Text) -> Text:
    return Text(f"{first.en} {second.en}", first.zh + second.zh)


def _told(found: list[tuple[float, Text]]) -> tuple[Text, ...]:
    """The sentences that gain most."""
    return tuple(text for _, text in sorted(found, key=lambda each: -each[0])[:_LISTED])


def _faster(estimate: Estimate, price: Price, lengths: LengthStats | None) -> list[tuple[float, Text]]:
    """Changes that shorten the step; those that do not fit count less than all that do."""
    found = []
    assert estimate.throughput is not None  # noqa: S101 - `bottleneck` has seen to it
    for lever, other in _priced(estimate, _faster_levers(estimate, lengths), price):
        gain = _seconds(estimate, lengths) / _seconds(other, lengths) - 1
        if gain < _LEAST_SHARE:
            continue
        memory = other.memory
        values = {"flags": _flags(lever), "why": _why(lever, estimate.throughput), "percent": f"{100 * gain:.0f}"}
        if memory.fits:
            numbers = {"used": gib(memory.device_used_bytes), "available": gib(memory.available_bytes)}
            found.append((1 + gain, message("faster_tight" if memory.verdict == "tight" else "faster", **values, **numbers)))
        else:
            numbers = {"high": gib(memory.high_bytes), "missing": gib(memory.high_bytes - memory.available_bytes)}
            found.append((gain / (1 + gain), message("faster_elsewhere", **values, **numbers)))
    return found


def _smaller(estimate: Estimate, price: Price, lengths: LengthStats | None) -> list[tuple[float, Text]]:
    """Changes that need less memory."""
    found = []
    assert estimate.throughput is not None  # noqa: S101 - `bottleneck` has seen to it
    for lever, other in _priced(estimate, _smaller_levers(estimate), price):
        saved = estimate.memory.device_used_bytes - other.memory.device_used_bytes
        if saved < _LEAST_SHARE * estimate.memory.device_used_bytes:
            continue
        change = round(100 * (_seconds(estimate, lengths) / _seconds(other, lengths) - 1))
        speed = message("faster_by" if change > 0 else "slower_by" if change < 0 else "as_fast", percent=abs(change))
        why = _why(lever, estimate.throughput)
        found.append((float(saved), message("smaller", flags=_flags(lever), why=why, saved=gib(saved), speed=speed)))
    return found


def _faster_levers(estimate: Estimate, lengths: LengthStats | None) -> Iterator[_Lever]:
    recipe, gpu = estimate.recipe, estimate.hardware.gpu
    if recipe.gradient_checkpointing:
        yield _Lever("no_checkpointing", {"gradient_checkpointing": False})
    if recipe.quantization != "none":
        yield _Lever("no_quantization", {"quantization": "none", "double_quantization": False})
    batch, accumulation = recipe.micro_batch, recipe.gradient_accumulation
    while accumulation % 2 == 0:
        batch, accumulation = 2 * batch, accumulation // 2
        yield _Lever("larger_batch", {"micro_batch": batch, "gradient_accumulation": accumulation})
    if recipe.attention == "eager":
        yield _Lever("fused_attention", {"attention": "sdpa"})
    if recipe.loss != "fused":
        yield _Lever("fused_loss", {"loss": "fused"})
    if recipe.optimizer == "adamw_torch" and recipe.method == "full":
        yield _Lever("fused_optimizer", {"optimizer": "adamw_torch_fused"})
    if recipe.compute_dtype == "fp32" and gpu is not None:
        yield _Lever("half_precision", {"compute_dtype": "bf16" if gpu.supports_bf16 else "fp16"})
    if lengths is not None and not recipe.packing:
        yield _Lever("packing", {"packing": True})


def _smaller_levers(estimate: Estimate) -> Iterator[_Lever]:
    recipe, gpu = estimate.recipe, estimate.hardware.gpu
    if not recipe.gradient_checkpointing:
        yield _Lever("checkpointing", {"gradient_checkpointing": True})
    if recipe.method == "full":
        yield _Lever("lora", {"method": "lora", "adapter_dtype": adapter_dtype("none", recipe.compute_dtype)})
    elif recipe.quantization in ("none", "int8") and gpu is not None and gpu.supports_bitsandbytes:
        yield _Lever("quantization", {"quantization": "nf4", "double_quantization": True})
    if recipe.micro_batch > 1:
        yield _Lever("smaller_batch", {"micro_batch": 1, "gradient_accumulation": recipe.sequences_per_step})
    if not recipe.optimizer.endswith(("8bit", "sgd", "adafactor")):
        yield _Lever("optimizer_8bit", {"optimizer": "adamw_8bit"})
    if recipe.loss != "fused":
        yield _Lever("small_loss", {"loss": "fused"})
    if recipe.seq_len >= 256:
        yield _Lever("shorter", {"seq_len": recipe.seq_len // 2})


def _priced(estimate: Estimate, levers: Iterator[_Lever], price: Price) -> Iterator[tuple[_Lever, Estimate]]:
    """Each lever with what it makes of the estimate; of the larger batches only the smallest that gains as much as any."""
    best: tuple[_Lever, Estimate] | None = None
    for lever in levers:
        changes = dict(lever.changes)
        if "quantization" in changes:
            changes["adapter_dtype"] = adapter_dtype(changes["quantization"], estimate.recipe.compute_dtype)
        try:
            other = price(estimate.recipe.replace(**changes))
        except FtadviseError:  # this machine, model or stack cannot
            continue
        if other.throughput is None:
            continue
        if lever.name != "larger_batch":
            yield lever, other
        elif other.memory.fits and (best is None or _seconds(best[1]) > (1 + _LEAST_SHARE) * _seconds(other)):
            best = lever, other
    if best is not None:
        yield best


def _seconds(estimate: Estimate, lengths: LengthStats | None = None) -> float:
    """Time for so much of the data: a token of the longest length, or with packing what of it is needed for an example."""
    recipe, speed = estimate.recipe, estimate.throughput
    assert speed is not None  # noqa: S101 - `_priced` has seen to it
    seconds = speed.seconds_per_step / (recipe.sequences_per_step * recipe.seq_len)
    return seconds * lengths.packed_sequences(recipe.seq_len) / lengths.examples if lengths is not None and recipe.packing else seconds


def _why(lever: _Lever, speed: ThroughputEstimate) -> Text:
    """Why a change helps, with the share of the step that it is about."""
    why = message(f"lever_{lever.name}")
    share = speed.shares.get(_SHARE_OF_LEVER.get(lever.name, ""), 0.0)
    return message("lever_share", why=why, percent=f"{100 * share:.0f}") if share >= 0.01 else why


def _flags(lever: _Lever) -> str:
    """The change as the command line says it."""
    words = []
    for field in dataclasses.fields(Recipe):
        if field.name in lever.changes and field.name != "adapter_dtype":
            name, value = field.name.replace("_", "-"), lever.changes[field.name]
            words.append(f"--{name}" if value is True else f"--no-{name}" if value is False else f"--{name} {value}")
    return " ".join(words)
