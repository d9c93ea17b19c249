"""Two optimizer steps on the longest micro batch before training begins: out of memory shows in the first minute, not at hour nine.

It is also what the meter measures, so that the training steps run without it. Nothing of it remains: the updates have zero gradients and
learning rate zero, the optimizer's step counters go back to zero, random states and the trainer's sums are restored; training is the
same, bit for bit, as without it. Imports torch and transformers: late.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from transformers import TrainerCallback

from ftadvise.estimator.recipe import Recipe
from ftadvise.runner.batch_shape import BatchShape
from ftadvise.runner.meter import METERED_STEPS, Meter

BY_DEEPSPEED = ("zero1", "zero2", "zero3")
"""DeepSpeed's engine counts micro batches and steps by itself; its first training steps are metered instead (`MeterCallback`)."""


class RehearsalStep(TrainerCallback):  # type: ignore[misc]
    """Rehearses when the trainer has prepared model and optimizer, and loaded a checkpoint if there is one.

    After a checkpoint the optimizer's state is not fresh, so only forward and backward run, with that state in memory.
    """

    def __init__(self, trainer: Any, meter: Meter, recipe: Recipe) -> None:
        self.batch = BatchShape()
        self._trainer, self._meter, self._recipe = trainer, meter, recipe

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Two steps of the longest micro batch, twice each where gradients are accumulated."""
        trainer = self._trainer
        rows = longest_rows(trainer.train_dataset, self._recipe.micro_batch)
        optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)  # accelerate wraps it
        fresh = not any(optimizer.state.values())
        micro_batches = 1 if self._recipe.gradient_accumulation == 1 else 2
        trainer.current_gradient_accumulation_steps = micro_batches  # which the trainer sets anew at every step
        with _leaving_no_trace(trainer, optimizer):
            for _step in range(METERED_STEPS):
                with self._meter.step(lambda: optimizer):
                    for micro_batch in range(1, micro_batches + 1):
                        batch = trainer.data_collator([dict(row) for row in rows])
                        self.batch = BatchShape.of(batch)
                        with self._synchronising(last=micro_batch == micro_batches):
                            trainer.training_step(trainer.model_wrapped, batch, _learned_tokens(batch) * micro_batches)
                    if fresh:
                        self._update(optimizer)
                    trainer.model_wrapped.zero_grad()
                if fresh:
                    _forget_steps(optimizer)

    def _synchronising(self, *, last: bool) -> Any:
        """As the trainer does it: gradients travel between ranks with the last micro batch only, until then each rank holds its own."""
        return nullcontext() if last else self._trainer.accelerator.no_sync(self._trainer.model_wrapped)

    def _update(self, optimizer: Any) -> None:
        """The optimizer's step with gradients that are there but zero."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if self._recipe.max_grad_norm > 0 and self._recipe.compute_dtype != "fp16":  # fp16 unscales first, which its scaler would remember
            torch.nn.utils.clip_grad_norm_(parameters, self._recipe.max_grad_norm)
        for parameter in parameters:
            parameter.grad.zero_()
        self._meter.before_update()
        optimizer.step()


def longest_rows(dataset: Any, count: int) -> list[dict[str, Any]]:
    """The `count` examples with the most tokens, the longest first; all of them when there are fewer."""
    import pyarrow.compute as pc

    lengths: list[int] = []
    for table in dataset.with_format("arrow").iter(batch_size=10_000):
        lengths += pc.list_value_length(table["input_ids"]).to_pylist()
    longest = sorted(range(len(lengths)), key=lambda index: -lengths[index])[:count]
    return [dataset[index] for index in longest]


def _learned_tokens(batch: Any) -> int:
    return max(1, int((batch["labels"][..., 1:] != -100).sum()))


def _forget_steps(optimizer: Any) -> None:
    """Back to step zero. A zero gradient leaves every moment at its initial zero; only the counters have moved."""
    for state in optimizer.state.values():
        step = state.get("step")
        if isinstance(step, torch.Tensor):
            step.zero_()
        elif step is not None:
            state["step"] = 0


@contextmanager
def _leaving_no_trace(trainer: Any, optimizer: Any) -> Iterator[None]:
    """Learning rates zero inside; they, the random states and what TRL sums up over steps are restored afterwards."""
    rates = [group["lr"] for group in optimizer.param_groups]
    sums = {name: copy.deepcopy(getattr(trainer, name)) for name in ("_metrics", "_total_train_tokens") if hasattr(trainer, name)}
    scaler = getattr(trainer.accelerator, "scaler", None)
    scale: Any = scaler.state_dict() if scaler is not None else None
    devices = [torch.cuda.current_device()] if trainer.args.device.type == "cuda" else []
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        for name, value in sums.items():
            setattr(trainer, name, value)
        if scaler is not None:
            scaler.load_state_dict(scale)
