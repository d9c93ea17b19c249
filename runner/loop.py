"""The training loop: the trainer with everything that watches over it, from the rehearsal to the last step. Imports torch: late."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftadvise.profiles.errors import InputError, InterruptedRunError
from ftadvise.runner.attempt import write_steps
from ftadvise.runner.batch_shape import BatchShape
from ftadvise.runner.callbacks import CheckpointClock, StepRecord, StepRecorder, StopOnInterrupt
from ftadvise.runner.checkpoints import checkpoints_of, last_checkpoint
from ftadvise.runner.guards import Guards
from ftadvise.runner.job import Job
from ftadvise.runner.meter import MeasuredMemory, MeterCallback, make_meter
from ftadvise.runner.panel import Panel
from ftadvise.runner.panel_view import Heading
from ftadvise.runner.ranks import any_rank, gathered, is_main, world_size
from ftadvise.runner.rehearsal_step import BY_DEEPSPEED, RehearsalStep
from ftadvise.runner.timeline import TimelineRecorder

TIMELINE = "timeline.json"


@dataclass(frozen=True, slots=True)
class Loop:
    """A training loop that got to its end.

    `shape` is the micro batch that was metered; `steps` what this attempt trained (nothing when it resumed at the last step).
    """

    trainer: Any
    measured: MeasuredMemory
    shape: BatchShape
    steps: tuple[StepRecord, ...]
    timeline: TimelineRecorder


def run_trainer(trainer: Any, job: Job, predicted: dict[str, Any], *, load_peak_bytes: int) -> Loop:
    """Rehearse, then train to the last step.

    Args:
        predicted: the `ftadvise.estimate/1` document of this attempt.
        load_peak_bytes: the peak while the model was loaded.

    Raises:
        InterruptedRunError: told to stop; a checkpoint is saved.
        TrainingDivergedError, SaveFailedError: as `Guards` and the checkpoints.
    """
    meter = make_meter(trainer.model, job.device, load_peak_bytes=load_peak_bytes)
    metering: Any = MeterCallback(meter) if job.recipe.sharding in BY_DEEPSPEED else RehearsalStep(trainer, meter, job.recipe)
    timeline = TimelineRecorder(job.device, file=job.request.folder / TIMELINE if is_main() else None)
    recorder, stop = StepRecorder(), StopOnInterrupt()
    gpu = job.hardware.gpu
    panel = Panel(
        job.console,
        predicted=predicted,
        card_bytes=gpu.memory_bytes if gpu else None,
        steps=recorder.steps,
        memory=timeline,
        devices=world_size(),
        heading=Heading(f"{job.recipe.label} of {job.plan_file.model_id}", job.request.number, job.request.changes),
        lang=job.request.lang,
    )
    for callback in (metering, recorder, Guards(), stop, CheckpointClock(), timeline, panel):
        trainer.add_callback(callback)
    checkpoint = _checkpoint(job)
    first = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    try:
        if is_main():
            write_steps(job.request.folder, first, first)
        with stop.listening():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        if isinstance(metering, MeterCallback):
            metering.close()
        panel.close()
        if is_main():
            write_steps(job.request.folder, first, max(first, trainer.state.global_step))
    state = trainer.state
    if stop.interrupted and state.global_step < state.max_steps:
        raise _interrupted(job, state.global_step, state.max_steps)
    shape = metering.batch if isinstance(metering, RehearsalStep) else BatchShape(*meter.batch)
    return Loop(trainer, meter.result(), shape, tuple(recorder.steps), timeline)


def _checkpoint(job: Job) -> Path | None:
    """The one to go on from, as the first rank sees it.

    Raises:
        InputError: another machine does not see it.
    """
    mine = last_checkpoint(job.out_dir) if job.request.resume and is_main() else None
    chosen = gathered({"name": mine.name if mine else None})[0]["name"]
    if chosen is None:
        return None
    checkpoint = checkpoints_of(job.out_dir) / str(chosen)
    if any_rank(not checkpoint.is_dir()):
        raise InputError(
            f"{checkpoint}: not all machines see this checkpoint", hint="--resume needs a run folder on a file system that they share"
        )
    return checkpoint


def _interrupted(job: Job, step: int, total: int) -> InterruptedRunError:
    if job.rehearse:
        return InterruptedRunError(f"rehearsal stopped after step {step} of {total}")
    return InterruptedRunError(
        f"stopped after step {step} of {total}; the state is saved in {Path(job.out_dir)}",
        hint=f"continue with: ftadvise run PLAN --out {job.out_dir} --resume",
    )
