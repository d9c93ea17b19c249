"""The training of a plan as a batch job: what it installs, copies, starts, and how long it may take. For SkyPilot and Slurm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftadvise.advisor.export.account import Account
from ftadvise.advisor.export.data import Data
from ftadvise.advisor.export.formats import yaml_text
from ftadvise.advisor.export.plain_python import export_script, requirements
from ftadvise.advisor.export.words import say
from ftadvise.estimator.plan_file import PlanFile
from ftadvise.estimator.recipe import DTYPE_BYTES

PLAN = "ftadvise-plan.yaml"
GPUS_PER_NODE = 8
"""What servers and cloud instances have at most; a plan does not say how its GPUs are spread."""
PORT = 29500
_START_HOURS = 0.5
"""For installing, downloading and loading, before the first step."""


@dataclass(frozen=True, slots=True)
class Job:
    """Args:
    files: the plan for `ftadvise run`, or a script with what launches it.
    command: how one node of one starts it; file names are ours.
    install: arguments of `pip install`, quoted for a shell.
    nodes: machines.
    gpus_per_node: on each of them; 0 for the CPU.
    """

    files: dict[str, str]
    command: str
    install: str
    nodes: int
    gpus_per_node: int

    @property
    def checks_card(self) -> bool:
        """Whether it is `ftadvise run`, which refuses another card than the plan's and saves its state when interrupted."""
        return PLAN in self.files

    def command_on_node(self, rank: str, address: str) -> str:
        """The command on each of several nodes; `rank` and `address` are shell expressions of ours."""
        if PLAN in self.files:
            return f'{self.command} --nodes {self.nodes} --node-rank "{rank}" --rendezvous "{address}:{PORT}"'
        where = f'--num_machines {self.nodes} --num_processes {self.nodes * self.gpus_per_node} --machine_rank "{rank}"'
        where += f' --main_process_ip "{address}" --main_process_port {PORT}'
        if "deepspeed.json" in self.files:
            where += " --deepspeed_multinode_launcher standard"  # the scheduler starts the nodes, not DeepSpeed
        return self.command.replace("accelerate launch ", f"accelerate launch {where} ", 1)


def job_of(account: Account, plan_file: PlanFile, data: Data) -> Job:
    """`ftadvise run` of the plan where that runs it, else the plain script, with what it accounts for.

    Args:
        plan_file: the plan with the paths that hold where the job runs.
        data: the same of its data.
    """
    recipe, count = plan_file.recipe, plan_file.made_for.count
    nodes = math.ceil(account.processes / GPUS_PER_NODE)
    gpus = math.ceil(account.processes / nodes) if recipe.sharding != "none" else min(count, 1)
    if nodes * gpus > account.processes and recipe.sharding != "none":
        account.note(say("uneven_nodes", processes=account.processes, nodes=nodes))
    if nodes > 1:
        account.note(say("several_nodes", nodes=nodes, gpus=gpus))
    if recipe.loss == "fused" and (recipe.sharding != "none" or recipe.offload == "none"):
        document = plan_file.to_dict()
        document["made_for"]["count"] = nodes * gpus  # what the job gets, whatever the machine had
        document["data"]["path"] = data.path if plan_file.data.path is not None else None
        files = {PLAN: yaml_text(document, f"`ftadvise run {PLAN}` executes it")}
        install = '"ftadvise[run]"' + (' "deepspeed>=0.18"' if recipe.sharding.startswith("zero") else "")
        return Job(files, f"ftadvise run {PLAN} --out ftadvise-run", install, nodes, gpus)
    script = export_script(plan_file, data)
    account.missing.update(script.missing)
    for note in script.notes:
        account.note(note)
    return Job(dict(script.files), script.command, requirements(recipe), nodes, gpus)


def hours_of(plan_file: PlanFile, data: Data) -> float | None:
    """Hours that suffice at the slow end of what was predicted, with the start; None when the plan does not say enough."""
    throughput: Any = plan_file.predicted.get("throughput")
    steps = plan_file.recipe.max_steps or _steps_of_data(plan_file, data)
    try:
        seconds = float(throughput["seconds_per_step"]) * float(throughput["tokens_per_second"]) / float(throughput["low"])
        hours = steps * seconds / 3600 + _START_HOURS if steps else None
    except (TypeError, KeyError, ValueError, ZeroDivisionError):
        return None
    return hours if hours is not None and math.isfinite(hours) and hours > 0 else None


def host_bytes(plan_file: PlanFile, gpus: int, nodes: int) -> int:
    """Host memory of one node: the checkpoint read once, what is offloaded there, and 8 GiB of libraries per process."""
    recipe = plan_file.recipe
    weights = plan_file.parameters * DTYPE_BYTES[recipe.compute_dtype]
    # DeepSpeed keeps an fp32 copy and two moments of what is trained
    optimizer = 12 * plan_file.parameters if recipe.method == "full" and recipe.offload in ("optimizer", "all") else 0
    parameters = weights if recipe.offload in ("parameters", "all") else 0
    return weights + (optimizer + parameters) // nodes + max(1, gpus) * (8 << 30)


def rows_of(data: Data) -> int | None:
    """How many rows a JSON lines file has; None where they cannot be counted."""
    if data.path in data.files:
        return len(data.files[data.path].split("\n")) - 1
    if not data.path.lower().endswith((".jsonl", ".ndjson")):
        return None
    try:
        with Path(data.path).open("rb") as file:
            return sum(1 for line in file if line.strip())
    except (OSError, ValueError):
        return None


def _steps_of_data(plan_file: PlanFile, data: Data) -> int | None:
    """Optimizer steps of all epochs; packing only makes them fewer."""
    rows, processes = rows_of(data), max(1, plan_file.made_for.count) if plan_file.recipe.sharding != "none" else 1
    if rows is None:
        return None
    return math.ceil(math.ceil(rows / (plan_file.recipe.sequences_per_step * processes)) * plan_file.recipe.epochs)
