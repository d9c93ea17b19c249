"""A Trainer that never loses work: atomic checkpoints, and resumed runs that are the interrupted run bit for bit. Imports torch: late.

What transformers and PEFT do otherwise, and is mended here: a checkpoint is written under its final name, file by file; a run that is
stopped between two micro batches forgets what dropout had drawn before them; evaluation draws from the random numbers of the training;
adapters come back as fp32, and the optimizer's states in the dtype of the weights; resumed after its last step, a run takes one more.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from ftadvise.runner.checkpoint_pickles import check_pickles
from ftadvise.runner.checkpoints import make_room, remove_older, write_manifest
from ftadvise.runner.durable import NEW, put_in_place, remove_folder
from ftadvise.runner.save_failures import check_room, explaining_failed_save
from ftadvise.runner.training_state import TRAINED_FILE, read_trained, restore_optimizer_dtypes, trained_tensors, write_trained

_SMALL_FILES_BYTES = 1 << 20
"""Trainer state, scheduler, random states and manifest."""


def make_safe(base: Any) -> Any:
    """The subclass; see `checkpoints.safe_trainer`."""

    class SafeTrainer(base):  # type: ignore[misc]
        _staging: Path | None = None

        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            self._boundary = _StepBoundary()
            self.add_callback(self._boundary)

        # ---- writing

        def _get_output_dir(self, trial: Any) -> str:
            return str(self._staging or super()._get_output_dir(trial))

        def create_model_card(self, *_args: Any, **_more: Any) -> None:
            """Not into the checkpoints: the run writes its own card."""

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            folder = Path(self.args.output_dir)
            name = f"checkpoint-{self.state.global_step}"
            staging, needed = folder / f"{NEW}{name}", self._bytes_to_save()
            where = f"the checkpoint of step {self.state.global_step}"
            with explaining_failed_save(folder.parent, folder, where, needed_bytes=needed):
                try:
                    if self.is_world_process_zero():
                        remove_folder(staging)
                        make_room(folder, needed)
                        check_room(folder.parent, folder, where, needed_bytes=needed)
                        staging.mkdir()
                    self.accelerator.wait_for_everyone()
                    self._staging = staging
                    super()._save_checkpoint(model, trial)
                    self.accelerator.wait_for_everyone()  # every rank has written its part
                    if self.is_world_process_zero():
                        (staging / name / "training_args.bin").unlink(missing_ok=True)  # a pickle that nobody reads
                        write_manifest(staging / name, step=self.state.global_step, world_size=self.args.world_size)
                        put_in_place(staging / name, folder / name)
                        remove_older(folder / name)
                finally:
                    self._staging = None
                    if self.is_world_process_zero():
                        remove_folder(staging)
            self.accelerator.wait_for_everyone()

        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
            if self._staging is None or self.is_deepspeed_enabled:
                super().save_model(output_dir, _internal_call)
            elif self.args.should_save and not self.is_fsdp_enabled:  # FSDP's own file of what is trained follows
                write_trained(self.model, Path(str(output_dir)), step=self.state.global_step)

        def _save_rng_state(self, output_dir: str) -> None:
            self._boundary.restore(self.state.global_step)
            super()._save_rng_state(output_dir)

        @property
        def _sharded(self) -> bool:
            return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

        def _bytes_to_save(self) -> int:
            """What a checkpoint takes, 0 where each rank holds only a part of it."""
            if self._sharded:
                return 0
            optimizer: Any = getattr(self.optimizer, "optimizer", self.optimizer)
            slots = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
            return _SMALL_FILES_BYTES + sum(int(t.nbytes) for t in (*slots, *trained_tensors(self.model).values()))

        # ---- going on

        def train(self, resume_from_checkpoint: Any = None, *args: Any, **more: Any) -> Any:
            if resume_from_checkpoint and self.is_deepspeed_enabled:
                check_pickles(Path(resume_from_checkpoint))
            return super().train(resume_from_checkpoint, *args, **more)

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            if (Path(resume_from_checkpoint) / TRAINED_FILE).exists():
                read_trained(self.model if model is None else model, Path(resume_from_checkpoint))
            else:
                super()._load_from_checkpoint(resume_from_checkpoint, model)

        def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
            super()._load_optimizer_and_scheduler(checkpoint)
            if checkpoint is not None and not self._sharded:
                restore_optimizer_dtypes(self.optimizer, Path(checkpoint) / "optimizer.pt")

        def _load_rng_state(self, checkpoint: str | None) -> None:
            super()._load_rng_state(checkpoint)
            self._boundary.remember(self.state.global_step)

        def _run_epoch(self, *args: Any, **more: Any) -> None:
            if self.state.global_step >= self.state.max_steps:  # killed after the last step: transformers would take one more
                self.control.should_training_stop = True
            else:
                super()._run_epoch(*args, **more)

        def evaluate(self, *args: Any, **more: Any) -> Any:
            with _random_states_kept():
                return super().evaluate(*args, **more)

    return SafeTrainer


class _StepBoundary(TrainerCallback):  # type: ignore[misc]
    """Remembers the random states at the end of each optimizer step: a stop in the middle of the next one goes back to it."""

    def __init__(self) -> None:
        self._step = -1
        self._states: tuple[Any, ...] = ()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._step < 0:
            self.remember(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.remember(state.global_step)

    def remember(self, step: int) -> None:
        self._step, self._states = step, _random_states()

    def restore(self, step: int) -> None:
        if step == self._step:
            _set_random_states(self._states)


def _random_states() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def _set_random_states(states: tuple[Any, ...]) -> None:
    python, numpy, cpu, cuda = states
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state(cuda)


@contextmanager
def _random_states_kept() -> Any:
    """What happens inside draws random numbers without moving those of the training."""
    states = _random_states()
    try:
        yield
    finally:
        _set_random_states(states)
