"""ms-swift: `swift sft FILE`, and the same as one command line.

Arguments from ms-swift 4.6.0: arguments/{sft,tuner}_args.py, arguments/base_args/*.py, trainers/arguments.py, cli/main.py; what they do:
pipelines/train/tuner.py, tuners/peft.py, tuner_plugin/ia3.py, dataset/preprocessor/core.py, dataset/dataset_syntax.py.
"""

from __future__ import annotations

import json
import shlex
from typing import Any

from ftadvise.advisor.export.account import Account
from ftadvise.advisor.export.data import Data, data_of
from ftadvise.advisor.export.deepspeed import DEEPSPEED_FILE, deepspeed_values
from ftadvise.advisor.export.formats import header, json_text, yaml_text
from ftadvise.advisor.export.target import RECIPE_FIELDS, Exported, Target
from ftadvise.advisor.export.words import say
from ftadvise.estimator.peft_settings import adapter_rank
from ftadvise.estimator.plan_file import PlanFile

CONFIG = "swift_sft.yaml"
SHELL = "swift_sft.sh"
_FSDP = "swift_fsdp.json"
_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_TUNERS = {"lora": "lora", "dora": "lora", "adalora": "adalora", "ia3": "ia3", "full": "full"}


def _export(plan_file: PlanFile) -> Exported:
    account = Account(plan_file, "ms-swift")
    data = data_of(plan_file)
    account.note(data.note)
    sharding, files = _sharding(account)
    values: dict[str, Any] = {
        "model": account.model,
        "use_hf": True,  # ms-swift would look for a name on ModelScope
        "torch_dtype": _DTYPES[account.recipe.compute_dtype],
        "attn_impl": account.recipe.attention,
        **_tuner(account),
        **_quantization(account),
        **_data(account, data),
        **_training(account),
        **sharding,
    }
    account.note(say("swift_template"))
    # Without it swift takes all visible GPUs for one process
    launch = f"NPROC_PER_NODE={account.processes} " if account.processes > 1 else ""
    launch = f"CUDA_VISIBLE_DEVICES=0 {launch}" if account.processes == 1 and plan_file.made_for.count > 1 else launch
    command = f"{launch}swift sft {CONFIG}"
    texts = {CONFIG: yaml_text(values, f"start with `{command}` in this folder"), SHELL: _shell(values, launch)}
    return account.exported({**texts, **files, **data.files}, command)


def _tuner(account: Account) -> dict[str, Any]:
    recipe = account.recipe
    tuner = account.choose("method", _TUNERS, "lora")
    if tuner == "full":
        return {"tuner_type": "full"}
    targets: dict[str, Any] = {"target_modules": list(recipe.target_modules)}
    if tuner == "ia3":  # tuner_plugin/ia3.py
        account.only("target_modules", ("all-linear",))
        for field in ("rank", "alpha", "dropout"):
            account.cannot(field, say("no_such_field", method=recipe.method))
        account.adapter_dtype("fp32")
        return {"tuner_type": tuner}
    values = {"tuner_type": tuner, **targets, "lora_alpha": recipe.alpha, "lora_dropout": recipe.dropout, "lora_bias": "none"}
    if tuner == "adalora":
        account.adapter_dtype("fp32")
        return {**values, "adalora_target_r": recipe.rank, "adalora_init_r": adapter_rank(recipe)}
    dtype = {"lora_dtype": _DTYPES[recipe.adapter_dtype], **({"use_rslora": True} if recipe.rslora else {})}
    return {**values, "lora_rank": recipe.rank, "use_dora": recipe.method == "dora", **dtype}


def _quantization(account: Account) -> dict[str, Any]:
    recipe = account.recipe
    account.only("high_precision_modules", ())
    if recipe.quantization == "none":
        return {}
    if recipe.quantization == "int8":
        return {"quant_method": "bnb", "quant_bits": 8}
    return {
        "quant_method": "bnb",
        "quant_bits": 4,
        "bnb_4bit_quant_type": recipe.quantization,
        "bnb_4bit_use_double_quant": recipe.double_quantization,
        "bnb_4bit_compute_dtype": _DTYPES[recipe.compute_dtype],
    }


def _data(account: Account, data: Data) -> dict[str, Any]:
    values: dict[str, Any] = {"dataset": [data.path], "split_dataset_ratio": 0}
    values["loss_scale"] = "all" if data.learns_all else "default"  # the answers
    return {**values, "use_chat_template": False} if data.shape == "text" else values


def _training(account: Account) -> dict[str, Any]:
    recipe = account.recipe
    packing = recipe.packing
    if packing and recipe.attention != "flash_attention_2":  # arguments/sft_args.py _check_padding_free
        packing = False
        account.cannot("packing", say("no_clash", trainer="ms-swift", value="packing", other=recipe.attention, instead="packing: false"))
    fused = account.choose("loss", {"full": False, "fused": True}, "fused")
    account.note(say("swift_liger") if fused else None)
    # with FSDP2 swift switches the trainer's checkpointing off, for FSDP's own
    checkpointing = recipe.gradient_checkpointing and recipe.sharding != "fsdp"
    return {
        "output_dir": "ftadvise-output",
        "max_length": recipe.seq_len,
        "truncation_strategy": "right",
        "packing": packing,
        "per_device_train_batch_size": recipe.micro_batch,
        "gradient_accumulation_steps": recipe.gradient_accumulation,
        "gradient_checkpointing": checkpointing,
        **({"gradient_checkpointing_kwargs": {"use_reentrant": False}} if checkpointing else {}),
        "use_liger_kernel": fused,
        "optim": recipe.optimizer,
        "weight_decay": 0.0,  # swift's own are 0.1 and 0.95
        "adam_beta2": 0.999,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.schedule,
        "warmup_ratio": recipe.warmup_ratio,
        "max_grad_norm": recipe.max_grad_norm,
        "num_train_epochs": recipe.epochs,
        "max_steps": recipe.max_steps or -1,
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "bf16": recipe.compute_dtype == "bf16",
        "fp16": recipe.compute_dtype == "fp16",
        "use_cpu": account.plan_file.made_for.device == "cpu",
        "logging_steps": 1,
        "save_steps": 0.2,  # below 1 it is a share of all steps
        "save_total_limit": 1,
        "report_to": ["none"],
    }


def _sharding(account: Account) -> tuple[dict[str, Any], dict[str, str]]:
    """The arguments, and the files that they name."""
    recipe = account.recipe
    if recipe.sharding.startswith("zero"):
        return {"deepspeed": DEEPSPEED_FILE}, {DEEPSPEED_FILE: json_text(deepspeed_values(account))}
    if recipe.sharding != "fsdp":
        account.only("offload", "none")
        return {}, {}
    offload = account.choose("offload", {"none": "", "all": " offload"}, "all")
    config = {
        "fsdp_version": 2,
        "reshard_after_forward": True,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "cpu_ram_efficient_loading": True,
        "state_dict_type": "SHARDED_STATE_DICT",
        "activation_checkpointing": recipe.gradient_checkpointing,
    }
    return {"fsdp": _FSDP}, {_FSDP: json_text({"fsdp": f"full_shard auto_wrap{offload}", "fsdp_config": config})}


def _shell(values: dict[str, Any], launch: str) -> str:
    """The same arguments as a command line; every value is quoted for a POSIX shell."""
    lines = [f"{launch}swift sft"]
    for name, value in values.items():
        words = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        lines.append(f"  --{name} " + " ".join(shlex.quote(str(word)) for word in words))
    return f"#!/bin/sh\n# {header()}.\n" + " \\\n".join(lines) + "\n"


MS_SWIFT = Target(
    name="ms-swift",
    title="ms-swift 4.6.0 (swift sft)",
    translates=RECIPE_FIELDS,
    export=_export,
    stack="ms-swift",
)
