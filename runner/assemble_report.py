"""The report of an attempt that got to its end: what was predicted for what really ran, beside what was measured."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from ftadvise.estimator.activations import Batch
from ftadvise.estimator.estimate import estimate
from ftadvise.estimator.throughput import estimate_throughput
from ftadvise.profiles.model_spec import ModelSpec
from ftadvise.runner.batch_shape import BatchShape
from ftadvise.runner.job import Job
from ftadvise.runner.report import Answer, RunReport

if TYPE_CHECKING:
    from ftadvise.runner.callbacks import StepRecord
    from ftadvise.runner.loop import Loop
    from ftadvise.runner.prepare import Prepared

_LIBRARIES = ("ftadvise", "torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets", "tokenizers", "safetensors")


def assemble(
    job: Job,
    prepared: Prepared,
    spec: ModelSpec,
    predicted: dict[str, Any],
    loop: Loop,
    ranks: Sequence[dict[str, Any]],
    answer: Answer | None,
    total_seconds: float,
) -> tuple[RunReport, Batch]:
    """The report, and the micro batch of its timed steps at their mean length.

    Args:
        ranks: what each rank has measured, this one's first; they are taken to have trained as many tokens.
    """
    state, timed_steps = loop.trainer.state, steady(loop.steps)
    seconds, tokens = sum(step.seconds for step in timed_steps), sum(step.tokens for step in timed_steps)
    shape, micro_batches = loop.shape, len(timed_steps) * job.recipe.gradient_accumulation
    timed = _batch(shape.at_mean_length(tokens, micro_batches) if timed_steps else shape)
    weights = "random" if job.rehearse else "pretrained"
    measured = document(loop.measured)
    report = RunReport(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions=_versions(),
        hardware=document(job.hardware),
        model={"id": job.plan_file.model_id, "parameters": job.plan_file.parameters, "weights": weights},
        plan=job.plan_file.to_dict(),
        recipe=job.recipe.to_dict(),
        data={**job.data.summary(), **document(prepared.stats)},
        predicted=predicted,
        predicted_at_measured=_estimate(job, spec, _batch(shape), timed),
        batch=document(shape),
        measured=measured,
        steps=state.global_step,
        losses=_curve(state.log_history, "loss"),
        evaluations=_curve(state.log_history, "eval_loss"),
        tokens_per_second=len(ranks) * tokens / seconds if timed_steps else None,
        seconds_per_step=seconds / len(timed_steps) if timed_steps else None,
        total_seconds=total_seconds,
        rehearsal=job.rehearse,
        resumed_from_step=loop.steps[0].step - 1 if loop.steps else state.global_step,
        answer=answer,
        saved=None if job.rehearse else "model" if job.recipe.method == "full" else "adapter",
        timeline=loop.timeline.points,
        ranks=tuple({"rank": number, **each} for number, each in enumerate(ranks)) if len(ranks) > 1 else (),
        training_peak=loop.timeline.training_peak(
            allocated_bytes=measured["peak_allocated_bytes"], reserved_bytes=measured["peak_reserved_bytes"]
        ),
    )
    return report, timed


def steady(steps: Sequence[StepRecord]) -> Sequence[StepRecord]:
    """The steps that count for the speed: all but the first, which warms caches up."""
    return steps[1:] or steps


def document(value: Any) -> dict[str, Any]:
    """A dataclass as the JSON document that reading the report gives back (lists, no tuples)."""
    found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(value)))
    return found


def _estimate(job: Job, spec: ModelSpec, metered: Batch, timed: Batch) -> dict[str, Any]:
    """The estimate for what really ran: memory of the micro batch that was metered, speed at the mean length of the steps timed."""
    priced = estimate(spec, job.hardware, job.recipe, batch=metered)
    speed = estimate_throughput(spec, job.hardware, job.recipe, priced.stack, batch=timed)
    return dataclasses.replace(priced, throughput=speed).to_json()


def _batch(shape: BatchShape) -> Batch:
    return Batch(shape.sequences, shape.length, masked=shape.masked)


def _curve(history: Sequence[dict[str, Any]], name: str) -> tuple[tuple[int, float | None], ...]:
    return tuple((int(entry["step"]), _finite(entry[name])) for entry in history if name in entry)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "os": platform.platform()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _finite(value: float) -> float | None:
    """JSON has no NaN: a loss that is not a number is None."""
    return float(value) if math.isfinite(value) else None
