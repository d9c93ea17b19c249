"""`run_plan`: execute a plan file from beginning to end and report what was predicted and what was measured."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftadvise.estimator.activations import Batch
from ftadvise.estimator.calibration import RunKind, RunRecord
from ftadvise.estimator.estimate import estimate
from ftadvise.estimator.plan_file import PlanFile, check_made_for
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.throughput import estimate_throughput
from ftadvise.profiles.errors import InputError, InterruptedRunError, OutOfMemoryError
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.model_config import spec_from_config
from ftadvise.profiles.model_spec import ModelSpec
from ftadvise.runner.cpu_process import share_cores
from ftadvise.runner.data import RowSet, demo_data_path, load_rows
from ftadvise.runner.prepare import Job, Prepared, prepare
from ftadvise.runner.quiet import no_telemetry, quiet_libraries
from ftadvise.runner.report import Answer, RunReport, write_report
from ftadvise.runner.run_folder import check_run_folder, claim_run_folder, last_checkpoint, release_run_folder, write_folder_atomically
from ftadvise.runner.run_record import add_to_calibration, run_record
from ftadvise.runner.supported import check_installed, check_supported

if TYPE_CHECKING:
    from rich.console import Console

    from ftadvise.runner.callbacks import BatchShape

REHEARSAL_STEPS = 5
"""Two metered ones and three for the speed."""
_LIBRARIES = ("ftadvise", "torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets", "tokenizers", "safetensors")


def check_run(
    plan_file: PlanFile, *, hardware: Hardware, out_dir: Path, resume: bool = False, rehearse: bool = False, max_steps: int | None = None
) -> tuple[Recipe, RowSet]:
    """Everything that can be checked before the weights are touched; changes nothing.

    Returns:
        The recipe as it will run (with its number of steps) and the rows it will learn.

    Raises:
        InputError: the plan, the machine, the data or the folder does not allow the run.
    """
    check_installed()
    check_made_for(plan_file, hardware)
    recipe = plan_file.recipe
    if rehearse or max_steps is not None:
        recipe = recipe.replace(max_steps=max_steps or REHEARSAL_STEPS)
    check_supported(recipe, hardware)
    data = load_rows(Path(plan_file.data_path).expanduser() if plan_file.data_path else demo_data_path())
    check_run_folder(out_dir, plan_file, resume=resume, rehearse=rehearse)
    return recipe, data


def run_plan(
    plan_file: PlanFile,
    *,
    out_dir: Path,
    hardware: Hardware,
    resume: bool = False,
    rehearse: bool = False,
    max_steps: int | None = None,
    trust_remote_code: bool = False,
    console: Console | None = None,
    kind: RunKind = "run",
) -> RunReport:
    """Train exactly what the plan says; measure memory in the first steps; save the adapter and report.json into `out_dir`.

    Args:
        hardware: this machine; the plan must have been made for it.
        resume: continue from the last checkpoint in `out_dir`.
        rehearse: random weights, a few steps, nothing saved but the report.
        max_steps: optimizer steps instead of the recipe's.
        console: where progress goes; default stderr.
        kind: what the run is called in this machine's calibration, to which it is added unless `without_calibration()` holds.

    Raises:
        InputError: plan, data, weights, folder or machine do not allow the run; nothing was trained.
        OutOfMemoryError: the device ran out of memory.
        InterruptedRunError: Ctrl-C; the state is saved.
    """
    recipe, data = check_run(plan_file, hardware=hardware, out_dir=out_dir, resume=resume, rehearse=rehearse, max_steps=max_steps)
    claim_run_folder(out_dir, plan_file, rehearse=rehearse)
    no_telemetry()
    if console is None:
        from rich.console import Console

        console = Console(stderr=True)
    device = "cpu" if hardware.gpu is None else "cuda"
    if device == "cpu":
        share_cores()
    job = Job(plan_file, recipe, data, hardware, device, out_dir, resume, rehearse, trust_remote_code, console)
    began = time.perf_counter()
    with _explaining_out_of_memory(recipe), quiet_libraries():
        console.print(f"preparing {plan_file.model_id}", markup=False, highlight=False)
        try:
            report, record = _train(job, prepare(job), began, kind)
        except BaseException:
            release_run_folder(out_dir)
            raise
    write_report(out_dir, report)
    shutil.rmtree(out_dir / "checkpoints", ignore_errors=True)  # only an unfinished run needs them
    add_to_calibration(record, console)
    return report


def _train(job: Job, prepared: Prepared, began: float, kind: RunKind) -> tuple[RunReport, RunRecord | None]:
    from ftadvise.runner.answer import answer
    from ftadvise.runner.callbacks import ProgressLine, StepRecorder, StopOnInterrupt
    from ftadvise.runner.meter import METERED_STEPS, MeterCallback, make_meter
    from ftadvise.runner.trainer import build_trainer, wrap_with_adapter

    def answered(model: Any) -> str:
        return answer(model, prepared.tokenizer, prepared.prompt) if prepared.prompt else ""

    spec = spec_from_config(prepared.model.config.to_dict(), source=job.plan_file.model_id, local_path=job.plan_file.local_path)
    predicted = estimate(spec, job.hardware, job.recipe).to_json()
    before = answered(prepared.model)
    model = wrap_with_adapter(prepared.model, job.recipe, prepared.base_name)
    checkpoints = job.out_dir / "checkpoints"
    trainer = build_trainer(model, prepared.tokenizer, prepared.rows, job.recipe, job.device, checkpoints, save=not job.rehearse)
    meter = make_meter(trainer.model, job.device, load_peak_bytes=prepared.load_peak_bytes)
    recorder, metering, progress = StepRecorder(METERED_STEPS), MeterCallback(meter), ProgressLine(job.console)
    stop = StopOnInterrupt(busy=lambda: meter.steps < METERED_STEPS)
    for callback in (recorder, metering, stop, progress):
        trainer.add_callback(callback)
    checkpoint = last_checkpoint(job.out_dir) if job.resume else None
    try:
        with stop.listening():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        metering.close()
        progress.close()
    state = trainer.state
    if stop.interrupted and state.global_step < state.max_steps:
        raise _interrupted(job, state.global_step, state.max_steps)
    if not recorder.steps:
        raise InputError(f"{checkpoint}: already at the last step, nothing is left to train", hint="that folder holds the trained weights")
    saved = None if job.rehearse else _save(trainer, prepared.tokenizer, job)
    steady = recorder.steps[METERED_STEPS:]  # the meter slows the first ones down
    seconds = sum(step.seconds for step in steady)
    largest = recorder.largest_batch
    timed = _batch(largest.at_mean_length(steady or recorder.steps, job.recipe.gradient_accumulation))
    report = RunReport(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions=_versions(),
        hardware=_document(job.hardware),
        model={"id": job.plan_file.model_id, "parameters": job.plan_file.parameters, "weights": "random" if job.rehearse else "pretrained"},
        plan=job.plan_file.to_dict(),
        recipe=job.recipe.to_dict(),
        data={"path": str(job.data.path), "sha256": job.data.sha256, "dropped": job.data.dropped, **_document(prepared.stats)},
        predicted=predicted,
        predicted_at_measured=_estimate(job, spec, _batch(largest), timed),
        batch=_document(largest),
        measured=_document(meter.result()),
        steps=state.global_step,
        losses=tuple((int(entry["step"]), _finite(entry["loss"])) for entry in state.log_history if "loss" in entry),
        tokens_per_second=sum(step.tokens for step in steady) / seconds if steady else None,
        seconds_per_step=seconds / len(steady) if steady else None,
        total_seconds=time.perf_counter() - began,
        rehearsal=job.rehearse,
        resumed_from_step=recorder.steps[0].step - 1,
        answer=Answer(prepared.prompt, before, answered(trainer.model)) if prepared.prompt else None,
        saved=saved,
    )
    return report, run_record(report, spec, job.hardware, timed, [step.tokens / step.seconds for step in steady], kind)


def _estimate(job: Job, spec: ModelSpec, largest: Batch, timed: Batch) -> dict[str, Any]:
    """The estimate for what really ran: memory of the largest batch that was metered, speed at the mean length of the steps timed."""
    priced = estimate(spec, job.hardware, job.recipe, batch=largest)
    speed = estimate_throughput(spec, job.hardware, job.recipe, priced.stack, batch=timed)
    return dataclasses.replace(priced, throughput=speed).to_json()


def _batch(shape: BatchShape) -> Batch:
    return Batch(shape.sequences, shape.length, masked=shape.masked)


def _save(trainer: Any, tokenizer: Any, job: Job) -> str:
    """The trained weights with the tokenizer, as safetensors; returns the folder's name."""

    def write(folder: Path) -> None:
        trainer.model.save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))

    name = "model" if job.recipe.method == "full" else "adapter"
    write_folder_atomically(job.out_dir / name, write)
    return name


def _interrupted(job: Job, step: int, total: int) -> InterruptedRunError:
    if job.rehearse:
        return InterruptedRunError(f"rehearsal stopped after step {step} of {total}")
    return InterruptedRunError(
        f"stopped after step {step} of {total}; the state is saved in {job.out_dir}",
        hint=f"continue with: ftadvise run PLAN --out {job.out_dir} --resume",
    )


@contextmanager
def _explaining_out_of_memory(recipe: Recipe) -> Iterator[None]:
    """Turn the many ways of running out of memory into one error that says what to lower."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(recipe, error) from None
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # the CPU allocator raises a plain RuntimeError
            raise
        raise _out_of_memory(recipe, error) from None


def _out_of_memory(recipe: Recipe, error: BaseException) -> OutOfMemoryError:
    lower = []
    if not recipe.gradient_checkpointing:
        lower.append("gradient_checkpointing: true")
    if recipe.micro_batch > 1:
        half = recipe.micro_batch // 2
        lower.append(f"micro_batch: {half} with gradient_accumulation: {math.ceil(recipe.sequences_per_step / half)}")
    lower.append(f"seq_len: {max(1, recipe.seq_len // 2)}")
    if recipe.method != "full" and recipe.quantization == "none":
        lower.append("quantization: nf4")
    reason = " ".join(str(error).split())[:160]
    return OutOfMemoryError(f"out of memory: {reason}", hint="lower one of these in the plan, in this order: " + "; ".join(lower))


def _document(value: Any) -> dict[str, Any]:
    """A dataclass as the JSON document that reading the report gives back (lists, no tuples)."""
    document: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(value)))
    return document


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "os": platform.platform()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _finite(loss: float) -> float | None:
    """JSON has no NaN: a loss that is not a number is None."""
    return float(loss) if math.isfinite(loss) else None
