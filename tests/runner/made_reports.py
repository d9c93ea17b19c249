"""Reports made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftadvise.estimator.recipe import Recipe
from ftadvise.runner.report import RunReport

FIELDS: dict[str, Any] = {"compute_dtype": "fp32", "rank": 4, "alpha": 8, "dropout": 0.0, "seq_len": 64, "gradient_checkpointing": False}
_PARTS = ("weights", "quantization_constants", "adapters", "gradients", "optimizer_state", "activations", "loss", "workspace", "context")


def made_report(base: Path, *, saved: str | None = "adapter", data: Path | None = None, sha256: str = "0" * 64, **fields: Any) -> RunReport:
    """A complete report of a run on the model in `base`."""
    memory = {"peak_allocated_bytes": 0, "peak_reserved_bytes": None, "device_used_bytes": 9, "peak_phase": "backward"}
    memory["components"] = dict.fromkeys(_PARTS, 0)
    estimate = {"memory": memory, "throughput": None}
    return RunReport(
        created="2026-01-01T00:00:00+00:00",
        versions={"torch": "2.13.0"},
        hardware={"gpus": [], "cpu": {"name": "some cpu"}, "ram_bytes": 1 << 34},
        model={"id": base.name, "parameters": 1, "weights": "pretrained"},
        plan={"schema": "ftadvise.plan-file/1", "model": {"id": base.name, "local_path": str(base), "parameters": 1}},
        recipe=Recipe(**{**FIELDS, **fields}).to_dict(),
        data={"path": str(data or "rows.jsonl"), "sha256": sha256, "dropped": 0, "rows": 4, "mean": 12.0, "p95": 20, "max": 20, "total": 48}
        | {"truncated": 0},
        predicted=estimate,
        predicted_at_measured=estimate,
        batch={"sequences": 1, "length": 2, "masked": False},
        measured=memory | {"definition": "tensors that torch holds"},
        steps=2,
        losses=((1, 2.5), (2, 1.5)),
        tokens_per_second=None,
        seconds_per_step=1.5,
        total_seconds=3.0,
        saved=saved,
    )
