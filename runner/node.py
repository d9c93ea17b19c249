"""`ftadvise run --node-rank 1` and up: this node's part of a run that the first node leads."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from ftadvise.estimator.plan_file import PlanFile
from ftadvise.profiles.hardware import Hardware
from ftadvise.runner.attempt import Request, write_request
from ftadvise.runner.checkpoints import last_checkpoint
from ftadvise.runner.child_process import run_in_child
from ftadvise.runner.launch import Launch
from ftadvise.runner.supervisor import check_recipe, error_of


def follow_run(
    plan_file: PlanFile,
    *,
    out_dir: Path,
    hardware: Hardware,
    launch: Launch,
    resume: bool = False,
    rehearse: bool = False,
    max_steps: int | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    force: bool = False,
) -> None:
    """Start this node's workers and wait for them. The first node owns the run folder: it locks it, and writes report and weights.

    Args:
        hardware: this machine.
        out_dir: the run folder, on a file system that all nodes share where the run is to be resumed; not written to from here.

    Raises:
        As `run_plan`, for this node's workers.
    """
    together = launch.together(hardware)
    recipe = check_recipe(plan_file, hardware=together, rehearse=rehearse, max_steps=max_steps, force=force)
    request = Request(
        1,
        str(out_dir),
        resume=resume or last_checkpoint(out_dir) is not None,
        rehearse=rehearse,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
        record=False,
    )
    with tempfile.TemporaryDirectory(prefix="ftadvise-node-") as own:
        path = write_request(request, dataclasses.replace(plan_file, recipe=recipe), Path(own))
        outcome = run_in_child(path, recipe, "cpu" if hardware.gpu is None else "cuda", launch)
    if outcome.status != "done":
        raise error_of(outcome)
