"""What stops a run that has gone wrong before it can spoil the last good state. Imports torch: late.

Checkpoints refuse weights that are not numbers by themselves (`training_state.write_trained`); the guards see it a step earlier.
"""

from __future__ import annotations

import math
from typing import Any

from transformers import TrainerCallback

from ftadvise.runner.training_state import diverged

_SKIPPED_IN_A_ROW = 20
"""PyTorch's GradScaler begins at a scale of 2^16 and halves it with each step that it skips (torch/amp/grad_scaler.py): after 16 of them
the gradients overflow without any scaling, and no further halving will help."""


class Guards(TrainerCallback):  # type: ignore[misc]
    """Stops at a loss or a gradient norm that is not a finite number; the step is over, but no checkpoint has been written of it.

    In fp16 the scaler skips a step whose gradients overflow, and the weights stay as they were: that is how it finds its scale, so only
    many such steps in a row stop the run. All ranks see the same loss and the same norm, so they stop together.
    """

    def __init__(self) -> None:
        self._skipped = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, optimizer: Any = None, **_: Any) -> None:
        """The figures of the step that just ended."""
        if not logs or "loss" not in logs:
            return
        step = state.global_step
        if getattr(optimizer, "step_was_skipped", False):
            self._skipped += 1
            if self._skipped >= _SKIPPED_IN_A_ROW:
                raise diverged(f"the gradients of the last {self._skipped} steps up to step {step} are too large for fp16")
            return
        self._skipped = 0
        if not _finite(logs["loss"]):
            raise diverged(f"the loss of step {step} is {float(logs['loss'])}")
        if not _finite(logs.get("grad_norm")):
            raise diverged(f"the gradients of step {step} are no longer numbers (norm {float(logs['grad_norm'])})")


def _finite(value: Any) -> bool:
    """Whether it is a finite number; what is not told counts as one (DeepSpeed does not always tell the norm)."""
    return value is None or math.isfinite(float(value))
