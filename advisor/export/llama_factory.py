"""LLaMA-Factory: `llamafactory-cli train FILE`, with the dataset_info.json that names the plan's data.

Keys from llamafactory 0.9.5: hparams/{model,data,finetuning,training}_args.py, data/parser.py; what they do: model/adapter.py,
model/patcher.py, model/model_utils/{quantization,liger_kernel,checkpointing}.py, launcher.py.
"""

from __future__ import annotations

from typing import Any

from ftadvise.advisor.export.accelerate import ACCELERATE_FILE, launch_files
from ftadvise.advisor.export.account import Account
from ftadvise.advisor.export.data import Data, data_of
from ftadvise.advisor.export.deepspeed import DEEPSPEED_FILE, deepspeed_values
from ftadvise.advisor.export.formats import json_text, yaml_text
from ftadvise.advisor.export.target import RECIPE_FIELDS, Exported, Target
from ftadvise.advisor.export.training_arguments import training_arguments
from ftadvise.advisor.export.words import say
from ftadvise.estimator.plan_file import PlanFile

_FILE = "llamafactory_sft.yaml"
_DATASET = "ftadvise"
ATTENTION = {"eager": "disabled", "sdpa": "sdpa", "flash_attention_2": "fa2"}


def _export(plan_file: PlanFile) -> Exported:
    account = Account(plan_file, "LLaMA-Factory")
    data = data_of(plan_file)
    account.note(data.note)
    launch, files = _launch(account)
    values: dict[str, Any] = {
        "model_name_or_path": account.model,
        "trust_remote_code": False,
        "flash_attn": ATTENTION[account.recipe.attention],
        **_quantization(account),
        "stage": "pt" if data.shape == "text" else "sft",
        "do_train": True,
        **_adapter(account),
        **_loss(account),
        **_data(account, data),
        **_training(account),
        **({"deepspeed": DEEPSPEED_FILE} if DEEPSPEED_FILE in files else {}),
    }
    text = yaml_text(values, f"start with `{launch}` in this folder")
    return account.exported({_FILE: text, "dataset_info.json": json_text(_dataset_info(data)), **files, **data.files}, launch)


def _launch(account: Account) -> tuple[str, dict[str, str]]:
    sharding, start = account.recipe.sharding, f"llamafactory-cli train {_FILE}"
    if sharding == "fsdp":
        files = launch_files(account)
        return f"accelerate launch --config_file {ACCELERATE_FILE} -m llamafactory.launcher {_FILE}", files
    if sharding.startswith("zero"):
        return f"FORCE_TORCHRUN=1 NPROC_PER_NODE={account.processes} {start}", {DEEPSPEED_FILE: json_text(deepspeed_values(account))}
    account.only("offload", "none")
    if sharding == "ddp":
        return f"FORCE_TORCHRUN=1 NPROC_PER_NODE={account.processes} {start}", {}
    return (f"CUDA_VISIBLE_DEVICES=0 {start}" if account.plan_file.made_for.count > 1 else start), {}


def _quantization(account: Account) -> dict[str, Any]:
    recipe = account.recipe
    account.only("high_precision_modules", ())
    if recipe.quantization == "none":
        return {}
    if recipe.quantization == "int8":
        return {"quantization_method": "bnb", "quantization_bit": 8}
    return {
        "quantization_method": "bnb",
        "quantization_bit": 4,
        "quantization_type": recipe.quantization,
        "double_quantization": recipe.double_quantization,
    }


def _adapter(account: Account) -> dict[str, Any]:
    recipe = account.recipe
    kind, dora = account.choose("method", {"lora": ("lora", False), "dora": ("lora", True), "full": ("full", False)}, "lora")
    if kind == "full":
        return {"finetuning_type": "full"}
    account.adapter_dtype("fp32")
    target = "all" if recipe.target_modules == ("all-linear",) else ",".join(recipe.target_modules)
    return {
        "finetuning_type": "lora",
        "lora_rank": recipe.rank,
        "lora_alpha": recipe.alpha,
        "lora_dropout": recipe.dropout,
        "lora_target": target,
        "use_dora": dora,
        **({"use_rslora": True} if recipe.rslora else {}),
    }


def _loss(account: Account) -> dict[str, Any]:
    if account.plan_file.made_for.device == "cpu":  # Liger's kernels are Triton's
        account.only("loss", "full")
        return {}
    liger = account.choose("loss", {"full": False, "fused": True}, "fused")
    if liger:
        account.note(say("llama_factory_liger"))
    return {"enable_liger_kernel": liger}


def _data(account: Account, data: Data) -> dict[str, Any]:
    recipe = account.recipe
    values: dict[str, Any] = {"dataset": _DATASET, "dataset_dir": ".", "cutoff_len": recipe.seq_len, "packing": recipe.packing}
    if recipe.packing:
        values["neat_packing"] = data.shape != "text"  # only supervised fine-tuning keeps packed rows apart
    if data.learn == "all" and data.shape != "text":
        values["train_on_prompt"] = True
    return values


def _dataset_info(data: Data) -> dict[str, Any]:
    about: dict[str, Any] = {"file_name": data.path}
    if data.shape == "messages":
        tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}
        about |= {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": {**tags, "observation_tag": "tool"}}
    elif data.shape == "text":
        about |= {"columns": {"prompt": "text"}}
    return {_DATASET: about}


def _training(account: Account) -> dict[str, Any]:
    recipe = account.recipe
    if recipe.compute_dtype == "fp32" and account.plan_file.made_for.device == "cuda":
        account.cannot("compute_dtype", say("checkpoint_dtype", trainer=account.trainer))
    return {
        "output_dir": "ftadvise-output",
        **training_arguments(
            account, checkpointing={"disable_gradient_checkpointing": not recipe.gradient_checkpointing}, warmup="warmup_ratio"
        ),
    }


LLAMA_FACTORY = Target(
    name="llama-factory",
    title="LLaMA-Factory 0.9.5 (llamafactory-cli train)",
    translates=RECIPE_FIELDS,
    export=_export,
    stack="llama-factory",
)
