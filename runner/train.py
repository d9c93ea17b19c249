"""`train`: one attempt, in this process (or in each of several ranks): prepare, rehearse, train, save, report."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftadvise.estimator.estimate import estimate
from ftadvise.estimator.plan_file import PlanFile
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.model_config import spec_from_config
from ftadvise.runner.assemble_report import assemble, document, steady
from ftadvise.runner.attempt import Request
from ftadvise.runner.cpu_process import share_cores
from ftadvise.runner.data import load_rows
from ftadvise.runner.job import Job
from ftadvise.runner.out_of_memory import explaining_out_of_memory
from ftadvise.runner.prepare import Prepared, prepare
from ftadvise.runner.quiet import no_telemetry, quiet_libraries
from ftadvise.runner.ranks import gathered, is_main, join, leave, world_size
from ftadvise.runner.report import Answer, write_report
from ftadvise.runner.run_record import add_to_calibration, run_record
from ftadvise.runner.save_trained import save_trained

if TYPE_CHECKING:
    from rich.console import Console


def train(request: Request, plan_file: PlanFile, hardware: Hardware, console: Console) -> None:
    """Train exactly what the plan says; leave the adapter in the run folder and report.json in the attempt's.

    Args:
        hardware: this machine; the plan must have been made for it.
        console: where progress goes; silent in all ranks but the first.

    Raises:
        InputError: data, weights or tokenizer do not allow the run; nothing was trained.
        OutOfMemoryError: the device ran out of memory.
        InterruptedRunError: told to stop; the state is saved.
        TrainingDivergedError, SaveFailedError: the last good state is kept.
    """
    began = time.perf_counter()
    no_telemetry()
    device = "cpu" if hardware.gpu is None else "cuda"
    if device == "cpu":
        share_cores()
    console.print(f"preparing {plan_file.model_id}", markup=False, highlight=False)
    data = load_rows(plan_file.data)  # before torch is imported: a mistake in the data shows at once
    join(plan_file.recipe, device)
    with explaining_out_of_memory(plan_file.recipe), quiet_libraries():
        job = Job(plan_file, request, data, hardware, device, Path(request.out_dir), console)
        _Attempt(job, prepare(job), began).run()
    leave()


class _Attempt:
    """The attempt with everything loaded."""

    def __init__(self, job: Job, prepared: Prepared, began: float) -> None:
        self.job, self.prepared, self.began = job, prepared, began
        config = prepared.model.config.to_dict()
        self.spec = spec_from_config(config, source=job.plan_file.model_id, local_path=job.plan_file.local_path)
        self.predicted = estimate(self.spec, job.hardware, job.recipe).to_json()

    def run(self) -> None:
        """Train, save, write the report."""
        from ftadvise.runner.loop import run_trainer

        job = self.job
        prompt = self.prepared.prompt if world_size() == 1 else None  # a sharded model answers only when all ranks take part
        before = self._answer(self.prepared.model, prompt)
        loop = run_trainer(self._trainer(), job, self.predicted, load_peak_bytes=self.prepared.load_peak_bytes)
        ranks = gathered({"host": socket.gethostname(), "measured": document(loop.measured)})
        answer = Answer(prompt, before, self._answer(loop.trainer.model, prompt)) if prompt else None
        report, timed = assemble(job, self.prepared, self.spec, self.predicted, loop, ranks, answer, time.perf_counter() - self.began)
        if report.saved is not None:
            save_trained(loop.trainer, self.prepared.tokenizer, report, job.out_dir / report.saved)
        if is_main():
            write_report(job.request.folder, report)
            if job.request.record:
                speeds = [len(ranks) * step.tokens / step.seconds for step in steady(loop.steps)]
                add_to_calibration(run_record(report, self.spec, job.hardware, timed, speeds, job.request.kind), job.console)

    def _answer(self, model: Any, prompt: str | None) -> str:
        from ftadvise.runner.answer import answer

        return answer(model, self.prepared.tokenizer, prompt) if prompt else ""

    def _trainer(self) -> Any:
        from trl import SFTTrainer

        from ftadvise.runner.adapters import wrap_with_adapter
        from ftadvise.runner.checkpoints import checkpoints_of, safe_trainer
        from ftadvise.runner.sharding_arguments import sharding_arguments
        from ftadvise.runner.trackers import tracking_arguments
        from ftadvise.runner.trainer import build_trainer

        job, prepared = self.job, self.prepared
        return build_trainer(
            wrap_with_adapter(prepared.model, job.recipe, prepared.base_name),
            prepared.tokenizer,
            prepared.rows,
            job.recipe,
            job.device,
            checkpoints_of(job.out_dir),
            save=not job.rehearse,
            eval_rows=prepared.eval_rows,
            trainer_class=safe_trainer(SFTTrainer),
            extra_arguments=sharding_arguments(job.recipe, job.device) | tracking_arguments(job.request.track, job.out_dir),
        )
