"""DeepSpeed: the JSON that transformers' Trainer takes as `--deepspeed FILE`; its content is that of `ftadvise run`."""

from __future__ import annotations

from typing import Any

from ftadvise.advisor.export.account import Account
from ftadvise.advisor.export.formats import json_text
from ftadvise.advisor.export.target import RECIPE_FIELDS, Exported, Target
from ftadvise.advisor.export.words import say
from ftadvise.estimator.plan_file import PlanFile
from ftadvise.estimator.recipe import Offload
from ftadvise.estimator.sharding_settings import deepspeed_settings

DEEPSPEED_FILE = "deepspeed.json"
_STAGES = {"none": 0, "ddp": 0, "zero1": 1, "zero2": 2, "zero3": 3}
_OFFLOADS: dict[int, tuple[Offload, ...]] = {0: ("none",), 1: ("none", "optimizer"), 2: ("none", "optimizer")}
_FIELDS = frozenset({"sharding", "offload", "compute_dtype", "micro_batch", "gradient_accumulation", "max_grad_norm"})


def deepspeed_values(account: Account) -> dict[str, Any]:
    """The document for the plan's ZeRO stage; what a stage cannot do is accounted for."""
    stage = account.choose("sharding", _STAGES, "zero3")
    possible = _OFFLOADS.get(stage, ("none", "optimizer", "parameters", "all"))
    nearest = "optimizer" if stage and account.recipe.offload == "all" else "none"
    offload = account.choose("offload", {each: each for each in possible}, nearest)
    return deepspeed_settings(account.recipe, stage=stage, offload=offload)


def _export(plan_file: PlanFile) -> Exported:
    account = Account(plan_file, "DeepSpeed")
    files = {DEEPSPEED_FILE: json_text(deepspeed_values(account))}
    account.elsewhere(RECIPE_FIELDS - _FIELDS, say("training_script"))
    return account.exported(files, f"deepspeed --num_gpus {account.processes} train.py --deepspeed {DEEPSPEED_FILE}")


DEEPSPEED = Target(
    name="deepspeed",
    title="DeepSpeed 0.19.8 configuration (JSON, for transformers' Trainer)",
    translates=_FIELDS,
    export=_export,
)
