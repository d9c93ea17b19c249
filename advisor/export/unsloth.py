"""An Unsloth script: FastLanguageModel and the SFTTrainer that Unsloth patches.

From unsloth 2026.10.9: models/loader.py and models/llama.py (from_pretrained, get_peft_model), models/rl.py; unsloth_zoo 2026.10.9
training_utils.py (adapters, and weights in full fine-tuning, in fp32), gradient_checkpointing.py.
"""

from __future__ import annotations

from ftadvise.advisor.export.account import Account
from ftadvise.advisor.export.data import Data, data_of
from ftadvise.advisor.export.formats import header
from ftadvise.advisor.export.script_blocks import (
    ENCODE_ALL,
    TORCH_DTYPES,
    call,
    data_path,
    encode,
    length_lines,
    literal,
    optimizer_lines,
    read_rows,
    reading_imports,
)
from ftadvise.advisor.export.target import RECIPE_FIELDS, Exported, Target
from ftadvise.advisor.export.words import say
from ftadvise.estimator.plan_file import PlanFile
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError

SCRIPT = "train_unsloth.py"


def _export(plan_file: PlanFile) -> Exported:
    if plan_file.made_for.device == "cpu":
        raise InputError("Unsloth needs a GPU: this plan trains on the CPU", hint="--to python runs on a CPU")
    account = Account(plan_file, "Unsloth")
    data = data_of(plan_file)
    account.note(data.note)
    sharded = account.choose("sharding", {"none": False, "ddp": True}, "ddp")
    account.only("offload", "none")
    account.only("loss", "fused")
    if account.recipe.method != "full":
        account.only("adapter_dtype", "fp32")
    if account.recipe.quantization == "int8":
        account.only("high_precision_modules", ())
    account.cannot("attention", say("unsloth_attention"))
    if account.recipe.gradient_checkpointing:
        account.note(say("unsloth_checkpoints"))
    command = f"accelerate launch --multi_gpu --num_processes {account.processes} {SCRIPT}" if sharded else f"python {SCRIPT}"
    return account.exported({SCRIPT: _script(account, data, command, sharded=sharded), **data.files}, command)


def _script(account: Account, data: Data, command: str, *, sharded: bool) -> str:
    recipe = account.recipe
    full = account.choose("method", {"lora": False, "dora": False, "full": True}, "lora")
    names = ["BitsAndBytesConfig"] if recipe.quantization in ("nf4", "fp4") else []
    names += [] if recipe.packing else ["DataCollatorForSeq2Seq"]
    imports = "from unsloth import FastLanguageModel  # before transformers and trl, which it patches\n\n"
    imports += reading_imports(data) + ("import os\n" if sharded and data.learns_all else "") + "import sys\nfrom pathlib import Path\n\n"
    imports += "import torch\nfrom datasets import Dataset\n"
    imports += f"from transformers import {', '.join(names)}\n" if names else ""
    imports += "from trl import SFTConfig, SFTTrainer\n"
    constants = f"MODEL = {literal(account.model)}\nDATA = {data_path(data)}\n"
    constants += f'OUTPUT = Path("ftadvise-output")\nSEQ_LEN = {recipe.seq_len}  # tokens\nSEED = {recipe.seed}\n'
    top = (
        f'"""Fine-tuning with Unsloth. {header()}.\n\npip install "unsloth==2026.10.9"\n{command}\n'
        f'After an interruption, add --resume: it goes on from the last checkpoint.\n"""\n\n{imports}\n{constants}'
    )
    main = [
        "def main():\n",
        f"    model, tokenizer = {_model(recipe, full=full, sharded=sharded)}\n",
        "    if tokenizer.pad_token is None:\n        tokenizer.pad_token = tokenizer.eos_token\n",
        "" if full else f"    model = {_adapter(recipe)}\n",
        ENCODE_ALL.replace(
            "    dataset = Dataset.from_list(examples)\n",
            "    dataset = Dataset.from_list([{key: ids[:SEQ_LEN] for key, ids in example.items()} for example in examples])\n",
        ),
        f"    trainer = {_trainer(recipe)}\n",
        '    trainer.train(resume_from_checkpoint="--resume" in sys.argv)\n',
        f'    trainer.save_model(str(OUTPUT / "{"model" if full else "adapter"}"))\n',
    ]
    return "\n\n".join([top, read_rows(data), encode(data), "".join(main), 'if __name__ == "__main__":\n    main()\n'])


def _model(recipe: Recipe, *, full: bool, sharded: bool) -> str:
    values = {
        "model_name": "MODEL",
        "max_seq_length": "SEQ_LEN",
        "dtype": TORCH_DTYPES[recipe.compute_dtype],
        "load_in_4bit": literal(recipe.quantization in ("nf4", "fp4")),
        "load_in_8bit": literal(recipe.quantization == "int8"),
        "full_finetuning": literal(full),
        "use_gradient_checkpointing": _checkpointing(recipe),
        "use_exact_model_name": "True  # else Unsloth loads its own quantised copy of some models",
        "random_state": "SEED",
    }
    if sharded:
        values["device_map"] = '{"": int(os.environ.get("LOCAL_RANK", 0))}'
    if recipe.quantization in ("nf4", "fp4"):
        quantization = {
            "load_in_4bit": "True",
            "bnb_4bit_quant_type": literal(recipe.quantization),
            "bnb_4bit_use_double_quant": literal(recipe.double_quantization),
            "bnb_4bit_compute_dtype": TORCH_DTYPES[recipe.compute_dtype],
        }
        if recipe.high_precision_modules:
            quantization["llm_int8_skip_modules"] = literal([*recipe.high_precision_modules, "lm_head"])
        values["quantization_config"] = call("BitsAndBytesConfig", quantization, indent=8)
    return call("FastLanguageModel.from_pretrained", values)


def _checkpointing(recipe: Recipe) -> str:
    return '"unsloth"  # checkpoints in host memory' if recipe.gradient_checkpointing else "False"


def _adapter(recipe: Recipe) -> str:
    everything = recipe.target_modules == ("all-linear",)
    values = {
        "r": literal(recipe.rank),
        "lora_alpha": literal(recipe.alpha),
        "lora_dropout": literal(recipe.dropout),
        "target_modules": '"all-linear"' if everything else literal(recipe.target_modules),
        "use_dora": literal(recipe.method == "dora"),
        **({"use_rslora": "True"} if recipe.rslora else {}),
        "bias": '"none"',
        "use_gradient_checkpointing": _checkpointing(recipe),
        "random_state": "SEED",
    }
    return call("FastLanguageModel.get_peft_model", {"model": "model", **values}).replace("        model=model,\n", "        model,\n", 1)


def _trainer(recipe: Recipe) -> str:
    config = {
        "output_dir": 'str(OUTPUT / "checkpoints")',
        "per_device_train_batch_size": literal(recipe.micro_batch),
        "gradient_accumulation_steps": literal(recipe.gradient_accumulation),
        "max_length": "SEQ_LEN",
        "packing": literal(recipe.packing),
        **({} if recipe.packing else {"padding_free": "False"}),
        **optimizer_lines(recipe),
        "weight_decay": "0.0  # Unsloth's own is 0.001",
        **length_lines(recipe),
        "gradient_checkpointing": literal(recipe.gradient_checkpointing),
        "logging_steps": "1",
        "save_strategy": '"steps"',
        "save_steps": "0.2  # below 1 it is a share of all steps",
        "save_total_limit": "1",
        "report_to": '"none"',
    }
    values = {"model": "model", "args": call("SFTConfig", config, indent=8), "train_dataset": "dataset", "processing_class": "tokenizer"}
    if not recipe.packing:
        values["data_collator"] = "DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100)"
    return call("SFTTrainer", values)


UNSLOTH = Target(
    name="unsloth",
    title="Unsloth 2026.10.9 script (FastLanguageModel, SFTTrainer)",
    translates=RECIPE_FIELDS,
    export=_export,
    stack="unsloth",
)
