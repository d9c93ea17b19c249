"""TRL's command line: `trl sft --config FILE`.

Field names from trl 1.16.0: scripts/sft.py (ScriptArguments, SFTConfig, ModelConfig, DatasetMixtureConfig), trainer/model_config.py,
trainer/utils.py get_peft_config and get_quantization_config; transformers 5.23.0 training_args.py.
"""

from __future__ import annotations

from typing import Any

from ftadvise.advisor.export.accelerate import ACCELERATE_FILE, launch_files
from ftadvise.advisor.export.account import Account
from ftadvise.advisor.export.data import Data, data_of
from ftadvise.advisor.export.formats import yaml_text
from ftadvise.advisor.export.target import RECIPE_FIELDS, Exported, Target
from ftadvise.advisor.export.training_arguments import training_arguments
from ftadvise.estimator.plan_file import PlanFile

_TRAINER = "TRL"
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
ATTENTION = {"eager": "eager", "sdpa": "sdpa", "flash_attention_2": "flash_attention_2"}


def _export(plan_file: PlanFile) -> Exported:
    account = Account(plan_file, _TRAINER)
    data = data_of(plan_file)
    account.note(data.note)
    values: dict[str, Any] = {
        "model_name_or_path": account.model,
        "dtype": DTYPES[account.recipe.compute_dtype],
        "attn_implementation": ATTENTION[account.recipe.attention],
        **_adapter(account),
        **_quantization(account),
        **_data(data),
        **sft_arguments(account),
    }
    account.only("loss", "fused")  # SFTTrainer from 1.15: nll in tiles, without full logits
    launch = {}
    if account.recipe.sharding == "none":
        account.only("offload", "none")
    else:
        launch = launch_files(account)
        values["accelerate_config"] = ACCELERATE_FILE
    files = {
        "trl_sft.yaml": yaml_text(values, "start with `trl sft --config trl_sft.yaml`"),
        **launch,
        **_data_files(data, values["model_name_or_path"]),
    }
    command = "trl sft --config trl_sft.yaml"
    if account.recipe.sharding == "none" and plan_file.made_for.count > 1:
        command = f"CUDA_VISIBLE_DEVICES=0 {command}"  # it would train on all of them
    if _PREPARE in files:
        command = f"python {_PREPARE} && {command}"
    return account.exported(files, command)


def _adapter(account: Account) -> dict[str, Any]:
    recipe = account.recipe
    use_peft, use_dora = account.choose("method", {"lora": (True, False), "dora": (True, True), "full": (False, False)}, "lora")
    if not use_peft:
        return {"use_peft": False}
    # sft_trainer.py: bf16 on a quantised base, else what PEFT makes of it (fp32)
    account.adapter_dtype("fp32" if recipe.quantization == "none" else "bf16")
    return {
        "use_peft": True,
        "lora_r": recipe.rank,
        "lora_alpha": recipe.alpha,
        "lora_dropout": recipe.dropout,
        "lora_target_modules": list(recipe.target_modules),  # one name arrives as text, so that "all-linear" is understood
        "use_dora": use_dora,
        **({"use_rslora": True} if recipe.rslora else {}),
    }


def _quantization(account: Account) -> dict[str, Any]:
    recipe = account.recipe
    account.only("high_precision_modules", ())
    if recipe.quantization == "none":
        return {}
    if recipe.quantization == "int8":
        return {"load_in_8bit": True}
    values: dict[str, Any] = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": recipe.quantization,
        "use_bnb_nested_quant": recipe.double_quantization,
    }
    if recipe.sharding == "fsdp":
        values["bnb_4bit_quant_storage"] = DTYPES[recipe.compute_dtype]  # FSDP shards floating-point parameters only
    return values


def sft_arguments(account: Account) -> dict[str, Any]:
    """The part that is transformers' TrainingArguments with TRL's SFTConfig."""
    recipe = account.recipe
    checkpointing: dict[str, Any] = {"gradient_checkpointing": recipe.gradient_checkpointing}
    if recipe.gradient_checkpointing:
        checkpointing["gradient_checkpointing_kwargs"] = {"use_reentrant": False}
    return {
        "output_dir": "ftadvise-output",
        "max_length": recipe.seq_len,
        "packing": recipe.packing,
        # warm-up steps below 1 are a share of all steps
        **training_arguments(account, checkpointing=checkpointing, warmup="warmup_steps"),
    }


# Data: TRL reads messages, text, and prompt with completion; rows of instruction, input and output become the last.

_PREPARE = "prepare_data.py"
_PREPARED = "trl_data.jsonl"
_SCRIPT = '''\
"""Rows of instruction, input and output as the prompt and completion that TRL reads, in the model's chat layout where it has one."""

import csv
import json

from transformers import AutoTokenizer

chat = AutoTokenizer.from_pretrained({model!a}).chat_template is not None
with open({source!a}, encoding="utf-8-sig", newline="") as file:
    {read}

with open({target!a}, "w", encoding="utf-8") as file:
    for row in rows:
        prompt, answer = row["instruction"], row["output"]
        if (row.get("input") or "").strip():
            prompt += "\\n\\n" + row["input"]
        if chat:
            prompt, answer = [{{"role": "user", "content": prompt}}], [{{"role": "assistant", "content": answer}}]
        else:
            prompt = "### Instruction:\\n" + prompt + "\\n\\n### Response:\\n"
        file.write(json.dumps({{"prompt": prompt, "completion": answer}}, ensure_ascii=False) + "\\n")
'''
_READ = {
    "csv": "rows = list(csv.DictReader(file))",
    "json": "rows = json.load(file)",
    "jsonl": "rows = [json.loads(line) for line in file if line.strip()]",
}


def _data(data: Data) -> dict[str, Any]:
    if data.shape == "instruction":
        return {"datasets": [{"path": "json", "data_files": _PREPARED}], **({"completion_only_loss": False} if data.learns_all else {})}
    answers = {"assistant_only_loss": True} if data.shape == "messages" and not data.learns_all else {}
    return {"datasets": [{"path": data.format, "data_files": data.path}], **answers}


def _data_files(data: Data, model: str) -> dict[str, str]:
    if data.shape != "instruction":
        return dict(data.files)
    kind = "csv" if data.format == "csv" else "json" if data.path.lower().endswith(".json") else "jsonl"
    return {**data.files, _PREPARE: _SCRIPT.format(model=model, source=data.path, target=_PREPARED, read=_READ[kind])}


TRL = Target(
    name="trl",
    title="TRL 1.16.0 command line (trl sft --config)",
    translates=RECIPE_FIELDS,
    export=_export,
    stack="trl",
)
