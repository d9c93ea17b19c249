"""DeepSpeed: the JSON that transformers' Trainer takes as `--deepspeed FILE`.

Keys from deepspeed 0.19.8: runtime/config.py, runtime/zero/config.py, runtime/zero/offload_config.py. "auto" is filled in by
transformers (integrations/deepspeed.py: bucket sizes from the hidden size, as the estimate assumes).
"""

from __future__ import annotations

from typing import Any

from ftadvise.advisor.export.account import Account
from ftadvise.advisor.export.formats import json_text
from ftadvise.advisor.export.target import RECIPE_FIELDS, Exported, Target
from ftadvise.advisor.export.words import say
from ftadvise.estimator.plan_file import PlanFile

DEEPSPEED_FILE = "deepspeed.json"
_STAGES = {"none": 0, "ddp": 0, "zero1": 1, "zero2": 2, "zero3": 3}
_FIELDS = frozenset({"sharding", "offload", "compute_dtype", "micro_batch", "gradient_accumulation", "max_grad_norm"})


def deepspeed_values(account: Account) -> dict[str, Any]:
    """The document for the plan's ZeRO stage; what a stage cannot do is accounted for."""
    recipe = account.recipe
    stage = account.choose("sharding", _STAGES, "zero3")
    zero: dict[str, Any] = {"stage": stage}
    if stage:
        zero |= {"overlap_comm": True, "contiguous_gradients": True, "reduce_bucket_size": "auto"}
    if stage == 3:
        zero |= {"stage3_prefetch_bucket_size": "auto", "stage3_param_persistence_threshold": "auto"}
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    zero |= _offload(account, stage)
    return {
        "train_micro_batch_size_per_gpu": recipe.micro_batch,
        "gradient_accumulation_steps": recipe.gradient_accumulation,
        "gradient_clipping": recipe.max_grad_norm,
        "bf16": {"enabled": recipe.compute_dtype == "bf16"},
        "fp16": {"enabled": recipe.compute_dtype == "fp16"},
        "zero_allow_untested_optimizer": True,  # the optimizer is the Trainer's
        "zero_optimization": zero,
    }


def _offload(account: Account, stage: int) -> dict[str, Any]:
    possible = {0: ("none",), 1: ("none", "optimizer"), 2: ("none", "optimizer")}.get(stage, ("none", "optimizer", "parameters", "all"))
    nearest = "optimizer" if stage and account.recipe.offload == "all" else "none"
    wanted = account.choose("offload", {each: each for each in possible}, nearest)
    host = {"device": "cpu", "pin_memory": True}
    parts: dict[str, Any] = {}
    if wanted in ("optimizer", "all"):
        parts["offload_optimizer"] = dict(host)
    if wanted in ("parameters", "all"):
        parts["offload_param"] = dict(host)
    return parts


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
