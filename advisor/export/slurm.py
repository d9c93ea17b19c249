"""Slurm: a batch script for `sbatch`. Options as in sbatch(1) and srun(1) of Slurm 24.05."""

from __future__ import annotations

import math

from ftadvise.advisor.export.account import Account
from ftadvise.advisor.export.batch_job import Job, host_bytes, hours_of, job_of
from ftadvise.advisor.export.data import data_of
from ftadvise.advisor.export.formats import header
from ftadvise.advisor.export.target import RECIPE_FIELDS, Exported, Target
from ftadvise.advisor.export.words import say
from ftadvise.estimator.plan_file import PlanFile

BATCH = "job.sbatch"
_CORES_PER_GPU = 8
_GRACE_SECONDS = 300


def _export(plan_file: PlanFile) -> Exported:
    account = Account(plan_file, "Slurm")
    data = data_of(plan_file)
    job = job_of(account, plan_file, data)
    account.note(say("slurm_cluster"))
    hours = hours_of(plan_file, data)
    if hours is None:
        account.note(say("slurm_no_time"))
    else:
        account.note(say("slurm_time"))
    return account.exported({BATCH: _script(plan_file, job, hours), **job.files}, f"sbatch {BATCH}")


def _script(plan_file: PlanFile, job: Job, hours: float | None) -> str:
    options = {
        "job-name": "ftadvise",
        "nodes": str(job.nodes),
        "ntasks-per-node": "1",
        **({"gpus-per-node": str(job.gpus_per_node)} if job.gpus_per_node else {}),
        "cpus-per-task": str(_CORES_PER_GPU * max(1, job.gpus_per_node)),
        "mem": f"{math.ceil(host_bytes(plan_file, job.gpus_per_node, job.nodes) / (1 << 30))}G",
        **({"time": _clock(hours)} if hours is not None else {}),
        **({"signal": f"INT@{_GRACE_SECONDS}"} if job.checks_card else {}),
        "output": "ftadvise-%j.log",
    }
    lines = ["#!/bin/bash", f"# {header()}: start with `sbatch {BATCH}`, in the folder of this file.", f"# pip install {job.install}"]
    if "signal" in options:
        lines.append("# Before the time is up the run is interrupted and saves its state; `ftadvise run ... --resume` goes on.")
    lines += [f"#SBATCH --{name}={value}" for name, value in options.items()]
    lines += ["", "set -euo pipefail", 'cd "$SLURM_SUBMIT_DIR"', "# activate the environment here", ""]
    if job.nodes == 1:
        lines.append(f"srun {job.command}")
    else:
        lines.append('hosts="$(scontrol show hostnames "$SLURM_JOB_NODELIST")"')
        lines.append("export MAIN_ADDRESS=\"${hosts%%$'\\n'*}\"")
        # nodes without --kill-on-bad-exit would wait for one that is gone
        lines.append(f"srun --kill-on-bad-exit=1 bash -c '{job.command_on_node('$SLURM_NODEID', '$MAIN_ADDRESS')}'")
    return "\n".join(lines) + "\n"


def _clock(hours: float) -> str:
    """Days-hours:minutes:seconds, to the next full ten minutes."""
    minutes = math.ceil(hours * 6) * 10
    return f"{minutes // 1440}-{minutes // 60 % 24:02d}:{minutes % 60:02d}:00"


SLURM = Target(
    name="slurm",
    title="Slurm 24.05 batch script (sbatch)",
    translates=RECIPE_FIELDS,
    export=_export,
)
