"""Axolotl: `axolotl train FILE`.

Keys from axolotl 0.19.0: utils/schemas/{config,peft,training,model,fsdp,datasets}.py, integrations/liger/args.py; what they do:
loaders/model.py, loaders/adapter.py, core/builders/base.py, utils/config/__init__.py.
"""

from __future__ import annotations

from typing import Any

from ftadvise.advisor.export.accelerate import fsdp_values
from ftadvise.advisor.export.account import Account
from ftadvise.advisor.export.data import Data, data_of
from ftadvise.advisor.export.deepspeed import DEEPSPEED_FILE, deepspeed_values
from ftadvise.advisor.export.formats import json_text, yaml_text
from ftadvise.advisor.export.target import RECIPE_FIELDS, Exported, Target
from ftadvise.advisor.export.words import say
from ftadvise.estimator.plan_file import PlanFile

_FILE = "axolotl.yaml"


def _export(plan_file: PlanFile) -> Exported:
    account = Account(plan_file, "Axolotl")
    data = data_of(plan_file)
    account.note(data.note)
    sharded, files = _sharding(account)
    values: dict[str, Any] = {
        "base_model": account.model,
        "attn_implementation": account.recipe.attention,
        **_adapter(account),
        **_quantization(account),
        **_data(account, data),
        **_training(account),
        **_loss(account),
        **sharded,
    }
    command = f"axolotl train {_FILE} --launcher accelerate -- --num_processes {account.processes}"
    return account.exported({_FILE: yaml_text(values, f"start with `{command}`"), **files, **data.files}, command)


def _adapter(account: Account) -> dict[str, Any]:
    recipe = account.recipe
    adapts, dora = account.choose("method", {"lora": (True, False), "dora": (True, True), "full": (False, False)}, "lora")
    if not adapts:
        return {}
    values: dict[str, Any] = {
        "adapter": "qlora" if recipe.quantization in ("nf4", "fp4") else "lora",
        "lora_r": recipe.rank,
        "lora_alpha": recipe.alpha,
        "lora_dropout": recipe.dropout,
        "peft_use_dora": dora,
        **({"peft_use_rslora": True} if recipe.rslora else {}),
    }
    if recipe.target_modules == ("all-linear",):
        values["lora_target_linear"] = True
    else:
        values["lora_target_modules"] = list(recipe.target_modules)
    if recipe.quantization == "none" and recipe.adapter_dtype == recipe.compute_dtype != "fp32" and recipe.sharding in ("none", "ddp"):
        values["peft_autocast_adapter_dtype"] = False  # the adapter keeps the dtype of the layer it adapts
    else:
        account.adapter_dtype("fp32")
    return values


def _quantization(account: Account) -> dict[str, Any]:
    recipe = account.recipe
    if recipe.quantization == "int8":
        account.only("high_precision_modules", ())
        return {"load_in_8bit": True}
    if recipe.quantization == "none":
        account.only("high_precision_modules", ())
        return {}
    kwargs: dict[str, Any] = {"bnb_4bit_quant_type": recipe.quantization, "bnb_4bit_use_double_quant": recipe.double_quantization}
    if recipe.high_precision_modules:  # a list replaces the default, which leaves out the head
        kwargs["llm_int8_skip_modules"] = list(dict.fromkeys(("lm_head", *recipe.high_precision_modules)))
    return {"load_in_4bit": True, "bnb_config_kwargs": kwargs}


def _data(account: Account, data: Data) -> dict[str, Any]:
    types = {"instruction": "alpaca", "messages": "chat_template", "text": "completion"}
    dataset = {"path": data.path, "ds_type": data.format, "type": types[data.shape]}
    if data.shape == "instruction":
        account.note(say("axolotl_alpaca"))
    return {
        "datasets": [dataset],
        "train_on_inputs": data.learns_all,
        "val_set_size": 0.0,
        "sequence_len": account.recipe.seq_len,
        "excess_length_strategy": "truncate",
        "sample_packing": account.recipe.packing,
        "pad_to_sequence_len": False,
    }


def _training(account: Account) -> dict[str, Any]:
    recipe = account.recipe
    if recipe.quantization == "int8" and recipe.compute_dtype == "fp32":
        account.cannot("compute_dtype", say("no_clash", trainer="Axolotl", value="fp32", other="load_in_8bit", instead="fp16"))
    return {
        "output_dir": "ftadvise-output",
        "micro_batch_size": recipe.micro_batch,
        "gradient_accumulation_steps": recipe.gradient_accumulation,
        "gradient_checkpointing": recipe.gradient_checkpointing,
        **({"gradient_checkpointing_kwargs": {"use_reentrant": False}} if recipe.gradient_checkpointing else {}),
        "optimizer": recipe.optimizer,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler": recipe.schedule,
        "warmup_ratio": recipe.warmup_ratio,
        "max_grad_norm": recipe.max_grad_norm,
        "num_epochs": recipe.epochs,
        **({"max_steps": recipe.max_steps} if recipe.max_steps else {}),
        "seed": recipe.seed,
        "bf16": recipe.compute_dtype == "bf16",
        "fp16": recipe.compute_dtype == "fp16",
        "logging_steps": 1,
    }


def _loss(account: Account) -> dict[str, Any]:
    if account.plan_file.made_for.device == "cpu":  # Liger's kernels are Triton's
        account.only("loss", "full")
        return {}
    if not account.choose("loss", {"full": False, "fused": True}, "fused"):
        return {}
    return {"plugins": ["axolotl.integrations.liger.LigerPlugin"], "liger_fused_linear_cross_entropy": True}


def _sharding(account: Account) -> tuple[dict[str, Any], dict[str, str]]:
    sharding = account.recipe.sharding
    if sharding.startswith("zero"):
        return {"deepspeed": DEEPSPEED_FILE}, {DEEPSPEED_FILE: json_text(deepspeed_values(account))}
    if sharding == "fsdp":  # its own schema has accelerate's names without the prefix
        values = {key.removeprefix("fsdp_"): value for key, value in fsdp_values(account).items() if key != "fsdp_version"}
        return {"fsdp_version": 2, "fsdp_config": values}, {}
    account.only("offload", "none")
    return {}, {}


AXOLOTL = Target(
    name="axolotl",
    title="Axolotl 0.19.0 (axolotl train)",
    translates=RECIPE_FIELDS,
    export=_export,
    stack="axolotl",
)
