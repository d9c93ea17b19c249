"""SkyPilot: a task YAML for `sky launch`. Keys from skypilot 0.14.1: utils/schemas.py get_task_schema, get_resources_schema; task.py."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path
from typing import Any

from ftadvise.advisor.export.account import Account
from ftadvise.advisor.export.batch_job import Job, job_of
from ftadvise.advisor.export.data import data_of
from ftadvise.advisor.export.formats import yaml_text
from ftadvise.advisor.export.target import RECIPE_FIELDS, Exported, Target
from ftadvise.advisor.export.words import say
from ftadvise.estimator.plan_file import MadeFor, PlanFile
from ftadvise.estimator.recipe import DTYPE_BYTES
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.yaml_store import load_yaml

TASK = "task.yaml"
_INPUT = "/ftadvise-input"
_DEFAULT_DISK_GB = 256
_GB = 10**9


def _export(plan_file: PlanFile) -> Exported:
    account = Account(plan_file, "SkyPilot")
    data = data_of(plan_file)
    mounts: dict[str, str] = {}  # there: here
    there = plan_file
    if plan_file.data.path is not None:
        ending = next((each for each in (".csv", ".json") if data.path.lower().endswith(each)), ".jsonl")
        mounts[f"{_INPUT}/rows{ending}"] = data.path
        data = dataclasses.replace(data, path=f"{_INPUT}/rows{ending}")
        there = dataclasses.replace(there, data=there.data.replace(path=data.path))
    if plan_file.local_path is not None:
        place = f"{_INPUT}/model.gguf" if plan_file.local_path.lower().endswith(".gguf") else f"{_INPUT}/model"
        mounts[place] = str(Path(plan_file.local_path).expanduser().absolute())
        there = dataclasses.replace(there, local_path=place)
    job = job_of(account, there, data)
    account.note(say("skypilot_results"))
    values: dict[str, Any] = {
        "name": "ftadvise",
        "resources": _resources(account, job),
        "num_nodes": job.nodes,
        "workdir": ".",
        **({"file_mounts": mounts} if mounts else {}),
        "setup": f"pip install {job.install}\n",
        "run": _run(job),
    }
    files = {TASK: yaml_text(values, f"start with `sky launch {TASK}`, in the folder of this file"), **job.files}
    return account.exported(files, f"sky launch {TASK}")


def _resources(account: Account, job: Job) -> dict[str, Any]:
    plan_file = account.plan_file
    disk = _DEFAULT_DISK_GB + (plan_file.parameters * DTYPE_BYTES[plan_file.recipe.compute_dtype]) // _GB
    resources: dict[str, Any] = {"disk_size": disk}
    if plan_file.made_for.device == "cpu":
        return {"cpus": "8+", "memory": f"{max(8, plan_file.made_for.ram_bytes // _GB)}+", **resources}
    return {"accelerators": {_accelerator(account, plan_file.made_for, job): job.gpus_per_node}, **resources}


def _accelerator(account: Account, made_for: MadeFor, job: Job) -> str:
    """SkyPilot's name of the plan's card."""
    from ftadvise.profiles.resolve_gpu import match_nvml_name, resolve_gpus

    names = _accelerators()
    found = match_nvml_name(made_for.gpu or "", made_for.memory_bytes)
    card = found.name if found else resolve_gpus(made_for.gpu or "")[0].name
    if card not in names:
        raise InputError(f"SkyPilot's catalog has no {card}", hint="plan for a card that clouds rent: ftadvise plan --gpu A100-80GB")
    if job.checks_card and sum(name == names[card] for name in names.values()) > 1:
        account.note(say("skypilot_form", accelerator=names[card], card=card))
    return names[card]


@lru_cache(maxsize=1)
def _accelerators() -> dict[str, str]:
    cards: dict[str, str] = load_yaml(Path(__file__).parent / "skypilot.yaml")["accelerators"]
    return cards


def _run(job: Job) -> str:
    if job.nodes == 1:
        return f"{job.command}\n"
    first = "MAIN_ADDRESS=\"${SKYPILOT_NODE_IPS%%$'\\n'*}\"\n"
    return first + job.command_on_node("$SKYPILOT_NODE_RANK", "$MAIN_ADDRESS") + "\n"


SKYPILOT = Target(
    name="skypilot",
    title="SkyPilot 0.14.1 task (sky launch)",
    translates=RECIPE_FIELDS,
    export=_export,
)
