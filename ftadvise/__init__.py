"""ftadvise: which fine-tuning recipe fits your GPU, what it costs, and a run that shows how right that was.

    import ftadvise
    plan = ftadvise.plan("Qwen-7B", gpu="RTX 4090")
    cost = ftadvise.estimate("Qwen-7B", gpu="RTX 4090", method="qlora", micro_batch=4)

Importing the package is cheap: names are loaded when they are first used, and torch only when training begins.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "plan": "ftadvise.api",
    "estimate": "ftadvise.api",
    "run": "ftadvise.api",
    "probe": "ftadvise.profiles.probe",
    "Estimate": "ftadvise.estimator.estimate_types",
    "Hardware": "ftadvise.profiles.hardware",
    "ModelSpec": "ftadvise.profiles.model_spec",
    "Plan": "ftadvise.advisor.plan_types",
    "Recipe": "ftadvise.estimator.recipe",
    "RunReport": "ftadvise.runner.report",
    "FtadviseError": "ftadvise.profiles.errors",
}
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
