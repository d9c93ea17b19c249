"""A plain Python script: transformers, PEFT and TRL's SFTTrainer, step by step what `ftadvise run` does (runner/trainer.py).

The APIs are those of transformers 5.23.0, peft 0.21.0, trl 1.16.0, bitsandbytes 0.50.0.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ftadvise.advisor.export.account import Account
from ftadvise.advisor.export.data import Data, data_of
from ftadvise.advisor.export.formats import header
from ftadvise.advisor.export.launch import Launch, launch_of
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
from ftadvise.estimator.peft_settings import FEEDFORWARD_MODULES, VIRTUAL_TOKENS, adapter_rank
from ftadvise.estimator.plan_file import PlanFile
from ftadvise.estimator.recipe import Recipe

SCRIPT = "train.py"
_TRL_OF_LOSS = {"fused": "trl>=1.15", "chunked": "trl>=1.7,<1.15", "full": "trl>=1.15"}
_BITSANDBYTES_OPTIMIZERS = ("adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit", "lion_32bit", "lion_8bit")
_LORA_LIKE = ("lora", "dora", "adalora")


def _export(plan_file: PlanFile) -> Exported:
    return export_script(plan_file, data_of(plan_file))


def export_script(plan_file: PlanFile, data: Data) -> Exported:
    """The plan as a script that reads `data`."""
    account = _trainable(plan_file)
    account.note(data.note)
    launch = launch_of(account, SCRIPT)
    if account.recipe.method == "adalora" and account.recipe.loss != "full":
        account.cannot("loss", say("python_adalora_loss"))
    if account.recipe.method not in _LORA_LIKE:
        _without_lora_fields(account)
    return account.exported({SCRIPT: script(account, data, launch), **launch.files, **data.files}, launch.command)


def _trainable(plan_file: PlanFile) -> Account:
    """An account of the plan as far as PEFT can train it."""
    account = Account(plan_file, "PEFT")
    changes: dict[str, Any] = {}
    if account.recipe.method == "adapter":
        changes["method"] = account.choose("method", {"lora": "lora"}, "lora")
    if account.recipe.method == "prefix" and account.recipe.gradient_checkpointing:
        changes["gradient_checkpointing"] = False  # peft_model.py refuses it
        words = {"value": "gradient_checkpointing", "other": "prefix", "instead": "gradient_checkpointing=False"}
        account.cannot("gradient_checkpointing", say("no_clash", trainer="PEFT", **words))
    if not changes:
        return account
    changed = Account(dataclasses.replace(plan_file, recipe=account.recipe.replace(**changes)), "PEFT")
    changed.missing.update(account.missing)
    return changed


def _without_lora_fields(account: Account) -> None:
    """Fields that the method does not have."""
    fields = ("rank", "alpha", "dropout") if account.recipe.method == "ia3" else ("rank", "alpha", "dropout", "target_modules")
    for field in (*fields, "adapter_dtype") if account.recipe.method == "full" else fields:
        account.cannot(field, say("no_such_field", method=account.recipe.method))


def script(account: Account, data: Data, launch: Launch) -> str:
    """The whole script."""
    recipe = account.recipe
    return "\n\n".join(
        [
            _top(account, data, launch),
            read_rows(data),
            encode(data),
            *_helpers(recipe),
            _main(account, launch),
            'if __name__ == "__main__":\n    main()\n',
        ]
    )


def requirements(recipe: Recipe) -> str:
    """What the script needs, as arguments of `pip install` for a shell."""
    return " ".join(_requirement_lines(recipe))


def _requirement_lines(recipe: Recipe) -> list[str]:
    install = ["torch>=2.11", "transformers>=5.23", "peft>=0.19", _TRL_OF_LOSS[recipe.loss], "accelerate>=1.10.1", "datasets>=4.7"]
    more = ["bitsandbytes>=0.48"] if recipe.quantization != "none" or recipe.optimizer in _BITSANDBYTES_OPTIMIZERS else []
    more += ["flash-attn"] if recipe.attention == "flash_attention_2" else []
    more += ["deepspeed>=0.18"] if recipe.sharding.startswith("zero") else []
    return [" ".join(f'"{name}"' for name in each) for each in (install, more) if each]


def _whole_logits(recipe: Recipe) -> bool:
    """Whether the model computes its loss itself: AdaLoRA adds a term there, which TRL's fused loss would not see."""
    return recipe.loss == "full" or recipe.method == "adalora"


def _top(account: Account, data: Data, launch: Launch) -> str:
    recipe = account.recipe
    pip = "".join(f"pip install {each}\n" for each in _requirement_lines(recipe))
    peft = {"lora": "LoraConfig", "dora": "LoraConfig", "adalora": "AdaLoraConfig", "ia3": "IA3Config"}
    peft |= {"prompt": "PromptTuningConfig", "prefix": "PrefixTuningConfig"}
    names = ["AutoModelForCausalLM", "AutoTokenizer", "set_seed"]
    names += ["BitsAndBytesConfig"] if recipe.quantization != "none" else []
    names += ["AutoConfig"] if recipe.quantization != "none" and recipe.high_precision_modules else []
    names += ["Trainer"] if _whole_logits(recipe) else []
    names += ["TrainerCallback"] if recipe.method == "adalora" else []
    imports = [
        reading_imports(data)
        + ("import os\n" if data.learns_all and "os." in (_device_map(account, launch) or "") else "")
        + "import sys\nfrom pathlib import Path\n",
        "import torch\nfrom datasets import Dataset\n"
        + (f"from peft import {peft[recipe.method]}, get_peft_model\n" if recipe.method != "full" else "")
        + f"from transformers import {', '.join(sorted(names, key=lambda name: (name.islower(), name)))}\n"
        + ("from transformers.pytorch_utils import Conv1D\n" if recipe.method == "ia3" else "")
        + "from trl import SFTConfig, SFTTrainer\n",
        f"MODEL = {literal(account.model)}\nDATA = {data_path(data)}\n"
        f'OUTPUT = Path("ftadvise-output")\nSEQ_LEN = {recipe.seq_len}  # tokens\nSEED = {recipe.seed}\n',
    ]
    return (
        f'"""Fine-tuning with transformers, PEFT and TRL. {header()}.\n\n'
        f"{pip}{launch.command}\n"
        'After an interruption, add --resume: it goes on from the last checkpoint.\n"""\n\n' + "\n".join(imports)
    )


def _helpers(recipe: Recipe) -> list[str]:
    helpers = []
    if recipe.quantization != "none" and recipe.high_precision_modules:
        helpers.append(_HEAD_NAME)
    if recipe.method == "ia3" and recipe.target_modules == ("all-linear",):
        helpers.append(_LINEAR_NAMES)
    if recipe.method == "adalora":
        helpers.append(_ALLOCATE)
    if _whole_logits(recipe):
        helpers.append(_WHOLE_LOGITS)
    return helpers


_HEAD_NAME = '''\
def head_name():
    """The name of the output head. Naming modules to leave alone switches off the default, which leaves the head alone."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(MODEL))
    return next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
'''
_LINEAR_NAMES = '''\
def linear_names(model):
    """The last names of all linear layers but the output head; (IA)3 has no "all-linear"."""
    head = model.get_output_embeddings()
    linear = [name for name, module in model.named_modules() if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head]
    return sorted({name.rpartition(".")[2] for name in linear})
'''
_ALLOCATE = '''\
class AllocateRanks(TrainerCallback):
    """AdaLoRA moves rank between layers after every step, while the gradients are still there."""

    def on_train_begin(self, args, state, control, model, **kwargs):
        model.base_model.rankallocator.set_total_step(state.max_steps)

    def on_optimizer_step(self, args, state, control, model, **kwargs):
        model.base_model.update_and_allocate(state.global_step)
'''
_WHOLE_LOGITS = '''\
class WholeLogitsTrainer(SFTTrainer):
    """The model computes all logits and its loss itself; SFTTrainer would fuse the two."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs["use_cache"] = False
        return Trainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)
'''


def _main(account: Account, launch: Launch) -> str:
    recipe = account.recipe
    trainer = "WholeLogitsTrainer" if _whole_logits(recipe) else "SFTTrainer"
    saved = "model" if recipe.method == "full" else "adapter"
    lines = [
        "def main():\n",
        # before the model: with DeepSpeed's stage 3 it decides how the model is loaded
        f"    config = {_config(account)}\n",
    ]
    if account.processes == 1 and account.plan_file.made_for.device == "cuda":
        lines.append("    config._n_gpu = 1  # one process, one GPU: the trainer would otherwise wrap all visible ones\n")
    lines += [
        "    tokenizer = AutoTokenizer.from_pretrained(MODEL)\n",
        "    if tokenizer.pad_token is None:\n        tokenizer.pad_token = tokenizer.eos_token\n",
        ENCODE_ALL,
        f"    model = {_model(account, launch)}\n",
    ]
    if recipe.quantization != "none" and account.plan_file.made_for.device == "cpu":
        lines.append(_CPU_4BIT)
    lines += ["    model.config.use_cache = False\n", *_adapter(recipe)]
    lines.append(f"    trainer = {trainer}(model=model, args=config, train_dataset=dataset, processing_class=tokenizer)\n")
    if recipe.method != "full":
        lines.append(_cast(recipe))
    if recipe.method == "adalora":
        lines.append("    trainer.add_callback(AllocateRanks())\n")
    lines += [
        '    trainer.train(resume_from_checkpoint="--resume" in sys.argv)\n',
        f'    trainer.save_model(str(OUTPUT / "{saved}"))\n',
        f'    tokenizer.save_pretrained(OUTPUT / "{saved}")\n',
    ]
    return "".join(lines)


_CPU_4BIT = """\
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # it repacks weights in a way that cannot be trained
"""


def _config(account: Account) -> str:
    recipe = account.recipe
    values = {
        "output_dir": 'str(OUTPUT / "checkpoints")',
        "per_device_train_batch_size": literal(recipe.micro_batch),
        "gradient_accumulation_steps": literal(recipe.gradient_accumulation),
        "max_length": "SEQ_LEN",
        "packing": literal(recipe.packing),
        **optimizer_lines(recipe),
        **length_lines(recipe),
        "activation_checkpointing": literal(recipe.gradient_checkpointing),
        "activation_checkpointing_kwargs": '{"use_reentrant": False}' if recipe.gradient_checkpointing else "None",
        "use_cpu": literal(account.plan_file.made_for.device == "cpu"),
        "dataloader_pin_memory": literal(account.plan_file.made_for.device == "cuda"),
        "logging_steps": "1",
        "logging_nan_inf_filter": "False  # a loss that is not a number must be seen",
        "save_strategy": '"steps"',
        "save_steps": "0.2  # below 1 it is a share of all steps",
        "save_total_limit": "1",
        "report_to": '"none"',
    }
    return call("SFTConfig", values)


def _model(account: Account, launch: Launch) -> str:
    recipe = account.recipe
    values = {"dtype": TORCH_DTYPES[recipe.compute_dtype]}
    if recipe.quantization != "none":
        values["quantization_config"] = call("BitsAndBytesConfig", _quantization(recipe, launch), indent=8)
    values["attn_implementation"] = literal(recipe.attention)
    device_map = _device_map(account, launch)
    if device_map:
        values["device_map"] = device_map
    values["use_safetensors"] = "True"
    return call("AutoModelForCausalLM.from_pretrained", values).replace("(\n", "(\n        MODEL,\n", 1)


def _quantization(recipe: Recipe, launch: Launch) -> dict[str, str]:
    kept = {}
    if recipe.high_precision_modules:
        kept["llm_int8_skip_modules"] = f"[*{literal(recipe.high_precision_modules)}, head_name()]"
    if recipe.quantization == "int8":
        return {"load_in_8bit": "True", **kept}
    values = {
        "load_in_4bit": "True",
        "bnb_4bit_quant_type": literal(recipe.quantization),
        "bnb_4bit_use_double_quant": literal(recipe.double_quantization),
        "bnb_4bit_compute_dtype": TORCH_DTYPES[recipe.compute_dtype],
    }
    if launch.shards_parameters:
        values["bnb_4bit_quant_storage"] = f"{TORCH_DTYPES[recipe.compute_dtype]}  # only floating point parameters can be sharded"
    return values | kept


def _device_map(account: Account, launch: Launch) -> str | None:
    if account.plan_file.made_for.device == "cpu":
        # bitsandbytes would otherwise look for a GPU
        return '{"": "cpu"}' if account.recipe.quantization != "none" else None
    if launch.shards_parameters:
        return None
    return '{"": int(os.environ.get("LOCAL_RANK", 0))}' if account.processes > 1 else '{"": 0}'


def _adapter(recipe: Recipe) -> list[str]:
    if recipe.method == "full":
        return ["    set_seed(SEED)\n"]
    everything = recipe.target_modules == ("all-linear",)
    names = "linear_names(model)" if recipe.method == "ia3" and everything else literal(recipe.target_modules)
    targets = '"all-linear"' if everything else names
    common = {"lora_alpha": literal(recipe.alpha), "lora_dropout": literal(recipe.dropout), "target_modules": targets}
    task = {"task_type": '"CAUSAL_LM"'}
    seed = "    set_seed(SEED)  # the adapter begins with random numbers\n"
    before = ""
    if recipe.method in ("lora", "dora"):
        scaling = {"use_rslora": "True"} if recipe.rslora else {}
        values = {"r": literal(recipe.rank), **common, "use_dora": literal(recipe.method == "dora"), **scaling, "bias": '"none"', **task}
        made = call("LoraConfig", values)
    elif recipe.method == "adalora":
        steps = {"init_r": literal(adapter_rank(recipe)), "target_r": literal(recipe.rank), "total_step": "1000  # AllocateRanks sets it"}
        made = call("AdaLoraConfig", {**steps, **common, **task})
    elif recipe.method == "ia3":
        before = f"    names = {names}\n    last_of_mlp = {literal(sorted(FEEDFORWARD_MODULES))}\n"
        inputs = "[name for name in names if name in last_of_mlp]  # their input is scaled, not their output"
        made = call("IA3Config", {"target_modules": "names", "feedforward_modules": inputs, **task})
    else:
        name = "PromptTuningConfig" if recipe.method == "prompt" else "PrefixTuningConfig"
        made = call(name, {"num_virtual_tokens": literal(VIRTUAL_TOKENS), **task})
    return [before, f"    adapter = {made}\n", seed, "    model = get_peft_model(model, adapter)\n"]


def _cast(recipe: Recipe) -> str:
    condition, loop = "parameter.requires_grad", "parameter in trainer.model.parameters()"
    comment = "PEFT makes the adapter fp32, TRL bf16 on a quantised base"
    if recipe.method in ("dora", "adalora"):
        loop = "name, parameter in trainer.model.named_parameters()"
    if recipe.method == "dora":
        condition += ' and "lora_magnitude_vector" not in name'
        comment += "; bf16 cannot hold the small updates of DoRA's magnitude"
    constant = ""
    if recipe.method == "adalora":
        comment += "; the rank becomes a trained parameter where PEFT moves it, which it is not meant to be"
        constant = '        if ".ranknum." in name:\n            parameter.requires_grad_(False)\n'
    return (
        f"    # {comment}\n"
        f"    for {loop}:\n{constant}"
        f"        if {condition}:\n"
        f"            parameter.data = parameter.data.to({TORCH_DTYPES[recipe.adapter_dtype]})\n"
    )


PYTHON = Target(
    name="python",
    title="plain Python script (transformers 5.23.0, PEFT 0.21.0, TRL 1.16.0)",
    translates=RECIPE_FIELDS,
    export=_export,
    stack="trl",
)
