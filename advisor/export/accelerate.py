"""accelerate: the YAML that `accelerate launch --config_file FILE` takes, for one GPU, DDP, DeepSpeed and FSDP.

Keys from accelerate 1.15.0: commands/config/config_args.py ClusterConfig, commands/launch.py, utils/launch.py; FSDP2 as in TRL's
accelerate_configs/fsdp2.yaml.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ftadvise.advisor.export.account import Account
from ftadvise.advisor.export.deepspeed import DEEPSPEED_FILE, deepspeed_values
from ftadvise.advisor.export.formats import json_text, yaml_text
from ftadvise.advisor.export.target import RECIPE_FIELDS, Exported, Target
from ftadvise.advisor.export.words import say
from ftadvise.estimator.plan_file import PlanFile
from ftadvise.estimator.sharding_settings import fsdp_settings

ACCELERATE_FILE = "accelerate.yaml"
_MIXED = {"bf16": "bf16", "fp16": "fp16", "fp32": "no"}
_FIELDS = frozenset({"sharding", "offload", "compute_dtype"})
_DEEPSPEED_FIELDS = frozenset({"gradient_accumulation", "max_grad_norm", "micro_batch"})


def launch_files(account: Account) -> dict[str, str]:
    """What the plan's GPUs and sharding need: the accelerate configuration, and the DeepSpeed one where it is ZeRO."""
    sharding = account.recipe.sharding
    values: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "debug": False,
        "distributed_type": {"none": "NO", "ddp": "MULTI_GPU", "fsdp": "FSDP"}.get(sharding, "DEEPSPEED"),
        "machine_rank": 0,
        "main_training_function": "main",
        "num_machines": 1,
        "num_processes": account.processes,
        "rdzv_backend": "static",
        "same_network": True,
        "use_cpu": account.plan_file.made_for.device == "cpu",
    }
    files: dict[str, str] = {}
    if sharding.startswith("zero"):  # the DeepSpeed file says the dtype; accelerate refuses to hear it twice
        values["deepspeed_config"] = {"deepspeed_config_file": DEEPSPEED_FILE, "zero3_init_flag": sharding == "zero3"}
        files[DEEPSPEED_FILE] = json_text(deepspeed_values(account))
    else:
        values["mixed_precision"] = _MIXED[account.recipe.compute_dtype]
        if sharding == "fsdp":
            values["fsdp_config"] = fsdp_values(account)
        else:
            account.only("offload", "none")
    return {ACCELERATE_FILE: yaml_text(values, f"start with `accelerate launch --config_file {ACCELERATE_FILE} SCRIPT`"), **files}


def fsdp_values(account: Account) -> dict[str, Any]:
    """accelerate's `fsdp_config` for FSDP2."""
    account.choose("offload", {"none": "none", "all": "all"}, "all")  # one switch for parameters, gradients and optimizer
    return {f"fsdp_{key}": value for key, value in fsdp_settings(account.recipe).items()}


def _export(plan_file: PlanFile) -> Exported:
    account = Account(plan_file, "accelerate")
    files = launch_files(account)
    said = _FIELDS | (_DEEPSPEED_FIELDS if DEEPSPEED_FILE in files else set())
    account.elsewhere(RECIPE_FIELDS - said, say("training_script"))
    return account.exported(files, f"accelerate launch --config_file {ACCELERATE_FILE} train.py")


def _export_fsdp(plan_file: PlanFile) -> Exported:
    account = Account(plan_file, "FSDP")
    account.choose("sharding", {"fsdp": "fsdp"}, "fsdp")
    sharded = Account(_with_sharding(plan_file), "FSDP")
    files = launch_files(sharded)
    account.missing |= sharded.missing
    account.elsewhere(RECIPE_FIELDS - _FIELDS, say("training_script"))
    return account.exported(files, f"accelerate launch --config_file {ACCELERATE_FILE} train.py")


def _with_sharding(plan_file: PlanFile) -> PlanFile:
    return dataclasses.replace(plan_file, recipe=plan_file.recipe.replace(sharding="fsdp"))


ACCELERATE = Target(
    name="accelerate",
    title="accelerate 1.15.0 configuration (accelerate launch --config_file)",
    translates=_FIELDS | _DEEPSPEED_FIELDS,
    export=_export,
)

FSDP = Target(
    name="fsdp",
    title="FSDP2 configuration (accelerate 1.15.0, whatever the plan's sharding)",
    translates=_FIELDS,
    export=_export_fsdp,
)
