"""Reports of runs that could have been: real predictions, measurements beside them, curves as trainings have them."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import random
from typing import Any

import ftadvise
from ftadvise.estimator.estimate_types import Estimate
from ftadvise.runner.report import Answer, RunReport

_COMPONENTS = ("weights", "quantization_constants", "adapters", "gradients", "optimizer_state", "activations", "loss", "workspace")


@functools.cache
def _estimate(gpu: str) -> Estimate:
    return ftadvise.estimate(
        "Qwen2.5-0.5B" if gpu == "cpu" else "Qwen-7B", gpu=gpu, method="lora" if gpu == "cpu" else "qlora", seq_len=1024
    )


def measured_like(estimate: Estimate, factor: float = 1.02) -> dict[str, Any]:
    """What a meter might have measured: the prediction, off by `factor`."""
    memory = estimate.to_json()["memory"]
    components = {name: int(memory["components"][name] * factor) for name in _COMPONENTS}
    on_gpu = bool(estimate.hardware.gpus)
    return {
        "peak_allocated_bytes": sum(components.values()),
        "peak_reserved_bytes": int(memory["peak_reserved_bytes"] * factor) if on_gpu else None,
        "device_used_bytes": int(memory["device_used_bytes"] * factor),
        "phases": {},
        "components": components | {"context": 0},
        "peak_phase": "backward",
        "definition": "allocated = torch.cuda.max_memory_allocated",
        "metered_steps": 2,
        "padded_tokens": [1, 1024],
        "notes": [],
    }


def finished_report(gpu: str = "RTX 4090", *, steps: int = 400, seed: int = 0, **changes: Any) -> RunReport:
    """A run of `steps` steps with three attempts' worth of history left to `changes`; the same for the same arguments."""
    estimate, dice = _estimate(gpu), random.Random(seed)  # noqa: S311 - made-up curves
    document = json.loads(json.dumps(estimate.to_json()))
    measured = measured_like(estimate)
    most = measured["device_used_bytes"]
    losses = tuple((step, round(0.9 + 1.6 * math.exp(-4 * step / steps) + dice.gauss(0, 0.08), 4)) for step in range(1, steps + 1))
    every = max(1, steps // 5)
    report = RunReport(
        created="2026-11-22T07:00:00+00:00",
        versions={"python": "3.12.1", "torch": "2.13.0", "transformers": "5.23.0"},
        hardware=json.loads(json.dumps(dataclasses.asdict(estimate.hardware))),
        model={"id": estimate.model.id, "parameters": estimate.model.total_params, "weights": "pretrained"},
        plan={"schema": "ftadvise.plan-file/1"},
        recipe=estimate.recipe.to_dict(),
        data={
            "path": "数据.jsonl",
            "sha256": "ab" * 32,
            "rows": 5000,
            "eval_rows": 250,
            "dropped": 3,
            "mean": 311.4,
            "p95": 720,
            "max": 1024,
        },
        predicted=document,
        predicted_at_measured=document,
        batch={"sequences": estimate.recipe.micro_batch, "length": 1024, "masked": True},
        measured=measured,
        steps=steps,
        losses=losses,
        tokens_per_second=1.04 * document["throughput"]["tokens_per_second"],
        seconds_per_step=0.96 * document["throughput"]["seconds_per_step"],
        total_seconds=0.96 * document["throughput"]["seconds_per_step"] * steps,
        answer=Answer(
            "What is LoRA?", "LoRA is a radio technology.", "LoRA trains two small matrices beside each frozen one.\nThat is all."
        ),
        saved="adapter",
        evaluations=tuple((step, round(losses[step - 1][1] + 0.06, 4)) for step in range(every, steps + 1, every)),
        timeline=tuple((step, 3.5 * step, int(most * min(1, 0.85 + 0.15 * step / (1 + steps // 4)))) for step in range(steps + 1)),
        training_peak={"allocated_bytes": measured["peak_allocated_bytes"], "reserved_bytes": None, "device_used_bytes": most},
    )
    return dataclasses.replace(report, **changes)


FALL_BACKS = (
    {
        "number": 1,
        "status": "out_of_memory",
        "message": "out of memory: 2.00 GiB asked, 0.31 GiB free",
        "from_step": 0,
        "to_step": 120,
        "changes": {},
    },
    {
        "number": 2,
        "status": "interrupted",
        "message": "stopped after step 250 of 400",
        "from_step": 120,
        "to_step": 250,
        "changes": {"micro_batch": [2, 1], "gradient_accumulation": [8, 16]},
    },
    {"number": 3, "status": "done", "message": "", "from_step": 250, "to_step": 400, "changes": {}},
)
"""Attempts for `finished_report(attempts=...)`."""


def several_ranks(count: int = 4, gpu: str = "RTX 4090") -> tuple[dict[str, Any], ...]:
    """Measurements of each rank for `finished_report(ranks=...)`."""
    return tuple(
        {"rank": rank, "host": f"node-{rank // 2}", "measured": measured_like(_estimate(gpu), 1 + rank / 50)} for rank in range(count)
    )
