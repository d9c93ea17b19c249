"""torchtune: a configuration for its LoRA and full fine-tuning recipes, on one device or sharded.

Keys from torchtune 0.6.1: recipes/{lora,full}_finetune_{single_device,distributed}.py and recipes/configs; components from torchtune/.
"""

from __future__ import annotations

import math
import re
import shlex
from functools import lru_cache
from pathlib import Path
from typing import Any

from ftadvise.advisor.export.account import Account
from ftadvise.advisor.export.batch_job import rows_of
from ftadvise.advisor.export.data import Data, data_of
from ftadvise.advisor.export.formats import yaml_text
from ftadvise.advisor.export.target import RECIPE_FIELDS, Exported, Target
from ftadvise.advisor.export.words import say
from ftadvise.estimator.plan_file import PlanFile
from ftadvise.profiles.errors import InputError, did_you_mean
from ftadvise.profiles.yaml_store import load_yaml

CONFIG = "torchtune.yaml"
_ATTENTION: dict[str, tuple[str, ...]] = {"q_proj": ("q_proj",), "k_proj": ("k_proj",), "v_proj": ("v_proj",), "o_proj": ("output_proj",)}
_ATTENTION["qkv_proj"] = ("q_proj", "k_proj", "v_proj")
_MLPS = ({"gate_proj", "up_proj", "down_proj"}, {"gate_up_proj", "down_proj"})
_OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw_torch": {"_component_": "torch.optim.AdamW", "fused": False},
    "adamw_torch_fused": {"_component_": "torch.optim.AdamW", "fused": True},
    "adamw_8bit": {"_component_": "bitsandbytes.optim.AdamW8bit"},
    "paged_adamw_32bit": {"_component_": "bitsandbytes.optim.PagedAdamW32bit"},
    "paged_adamw_8bit": {"_component_": "bitsandbytes.optim.PagedAdamW8bit"},
    "adafactor": {"_component_": "transformers.optimization.Adafactor", "scale_parameter": False, "relative_step": False},
    "sgd": {"_component_": "torch.optim.SGD"},
    "lion_32bit": {"_component_": "bitsandbytes.optim.Lion32bit"},
    "lion_8bit": {"_component_": "bitsandbytes.optim.Lion8bit"},
}
_SCHEDULES: dict[str, dict[str, Any]] = {
    "cosine": {"_component_": "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup"},
    "linear": {"_component_": "transformers.get_linear_schedule_with_warmup"},
    # the recipe gives every scheduler the number of steps, which the constant one does not take: a polynomial of degree 0 is the same
    "constant": {"_component_": "transformers.get_polynomial_decay_schedule_with_warmup", "power": 0.0},
}


def _export(plan_file: PlanFile) -> Exported:
    model = _known(plan_file)
    account = Account(plan_file, "torchtune")
    data = data_of(plan_file)
    account.note(data.note)
    account.note(say("torchtune_versions"))
    folder, download = _weights(account, model)
    recipe = account.recipe
    sharded = account.choose("sharding", {"none": False, "fsdp": True}, "fsdp")
    if sharded:
        offload = account.choose("offload", {"none": False, "all": True}, "all")
    else:
        account.only("offload", "none")
    account.only("attention", "sdpa")
    values: dict[str, Any] = {
        "output_dir": "ftadvise-output",
        "model": _model(account, model),
        "tokenizer": _tokenizer(model, folder, recipe.seq_len),
        "checkpointer": _checkpointer(plan_file, model, folder),
        "resume_from_checkpoint": False,
        **({} if recipe.method == "full" else {"save_adapter_weights_only": True}),
        "dataset": _dataset(data, recipe.packing),
        "seed": recipe.seed,
        "shuffle": True,
        "batch_size": recipe.micro_batch,
        "gradient_accumulation_steps": recipe.gradient_accumulation,
        "optimizer": {**_OPTIMIZERS[recipe.optimizer], "lr": recipe.learning_rate, "weight_decay": 0.0},
        **_length(account, data),
        "loss": {"_component_": account.choose("loss", _LOSSES, "chunked")},
        "clip_grad_norm": recipe.max_grad_norm or None,
        "compile": False,
        **({"optimizer_in_bwd": False} if recipe.method == "full" else {}),
        "device": plan_file.made_for.device,
        "dtype": account.choose("compute_dtype", {"bf16": "bf16", "fp32": "fp32"}, "bf16"),
        "enable_activation_checkpointing": recipe.gradient_checkpointing,
        "enable_activation_offloading": False,
        **({"fsdp_cpu_offload": offload} if sharded else {}),
        "metric_logger": {"_component_": "torchtune.training.metric_logging.DiskLogger", "log_dir": "ftadvise-output/logs"},
        "log_every_n_steps": 1,
        "log_peak_memory_stats": True,
    }
    kind = "full" if recipe.method == "full" else "lora"
    run = (
        f"tune run --nproc_per_node {account.processes} {kind}_finetune_distributed"
        if sharded
        else f"tune run {kind}_finetune_single_device"
    )
    command = f"{download}{run} --config {CONFIG}"
    return account.exported({CONFIG: yaml_text(_literal(values), "see the command"), **data.files}, command)


_LOSSES = {"full": "torch.nn.CrossEntropyLoss", "chunked": "torchtune.modules.loss.CEWithChunkedOutputLoss"}


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    table: dict[str, Any] = load_yaml(Path(__file__).parent / "torchtune.yaml")
    return table


def _known(plan_file: PlanFile) -> dict[str, Any]:
    """The entry of the plan's model, by its hub id, or by the last part of one where the plan names a folder.

    Raises:
        InputError: torchtune has its own code for each model, and none for this one.
    """
    ids = {name.lower(): entry for entry in _table()["models"] for name in entry["ids"]}
    short = {name.rpartition("/")[2]: entry for name, entry in ids.items()}
    name = plan_file.model_id.lower()
    found: dict[str, Any] | None = ids.get(name) or (short.get(name.rstrip("/").rpartition("/")[2]) if plan_file.local_path else None)
    if found is None:
        known = [each for entry in _table()["models"] for each in entry["ids"]]
        hint = (
            did_you_mean(plan_file.model_id, known)
            or "it has Llama 2 to 3.3, CodeLlama 7B, Mistral 7B v0.1, Gemma 1 and 2, Phi-3 mini, Phi-4, Qwen2, Qwen2.5"
        )
        raise InputError(f"torchtune 0.6.1 has no {plan_file.model_id}: it brings its own code for each model", hint=hint)
    return found


def _weights(account: Account, model: dict[str, Any]) -> tuple[str, str]:
    """The folder of the weights, and the command that fills it, with what follows it."""
    if account.plan_file.local_path is not None:
        return account.model, ""
    hub_id = next(name for name in model["ids"] if name.lower() == account.plan_file.model_id.lower())
    folder = f"weights/{hub_id.rpartition('/')[2]}"
    ignore = f" --ignore-patterns {shlex.quote(model['ignore'])}" if "ignore" in model else ""
    return folder, f"tune download {hub_id} --output-dir {folder}{ignore} && "


def _model(account: Account, model: dict[str, Any]) -> dict[str, Any]:
    recipe = account.recipe
    module, _, builder = model["builder"].partition(".")
    account.only("high_precision_modules", ())
    method = account.choose("method", {"lora": "lora", "dora": "dora", "full": "full"}, "lora")
    if method == "full":
        return {"_component_": f"torchtune.models.{module}.{builder}"}
    # torchtune trains in pure 16 bit, and its NF4 always quantises the constants too (torchao NF4Tensor)
    account.only("adapter_dtype", "bf16" if recipe.compute_dtype == "fp16" else recipe.compute_dtype)
    account.only("rslora", False)
    quantize = account.choose("quantization", {"none": False, "nf4": True}, "nf4")
    if quantize:
        account.only("double_quantization", True)
    attention, mlp = _targets(account)
    return {
        "_component_": f"torchtune.models.{module}.lora_{builder}",
        "lora_attn_modules": attention,
        "apply_lora_to_mlp": mlp,
        "lora_rank": recipe.rank,
        "lora_alpha": recipe.alpha,
        "lora_dropout": recipe.dropout,
        "use_dora": method == "dora",
        "quantize_base": quantize,
    }


def _targets(account: Account) -> tuple[list[str], bool]:
    """torchtune's attention modules, and whether the whole MLP is adapted. It needs at least one of attention."""
    wanted = account.recipe.target_modules
    everything = ["q_proj", "k_proj", "v_proj", "output_proj"]
    if wanted == ("all-linear",):
        return everything, True
    attention = [each for each in everything if any(each in _ATTENTION.get(name, ()) for name in wanted)]
    mlp = any(parts <= set(wanted) for parts in _MLPS)
    left = set(wanted) - set(_ATTENTION) - (set().union(*_MLPS) if mlp else set())
    if left or not attention:
        attention = attention or ["q_proj", "v_proj"]
        shown = ", ".join([*attention, *(["mlp"] if mlp else [])])
        account.cannot("target_modules", say("torchtune_targets", instead=shown))
    return attention, mlp


def _tokenizer(model: dict[str, Any], folder: str, seq_len: int) -> dict[str, Any]:
    tokenizer = dict(_table()["tokenizers"][model["tokenizer"]])
    return {key: value if key == "_component_" else f"{folder}/{value}" for key, value in tokenizer.items()} | {"max_seq_len": seq_len}


def _checkpointer(plan_file: PlanFile, model: dict[str, Any], folder: str) -> dict[str, Any]:
    meta = model["files"].startswith("original/")
    name, _, ending = model["files"].rpartition(".")
    files: Any = [model["files"].removeprefix("original/")]
    if model["shards"] > 1:
        files = {"filename_format": f"{name}-{{}}-of-{{}}.{ending}", "max_filename": f"{model['shards']:05}"}
    here = _safetensors(plan_file.local_path)
    if here:
        meta, files = False, here
    return {
        "_component_": f"torchtune.training.FullModel{'Meta' if meta else 'HF'}Checkpointer",
        "checkpoint_dir": f"{folder}/original" if meta else folder,
        "checkpoint_files": files,
        "recipe_checkpoint": None,
        "output_dir": "ftadvise-output",
        "model_type": model["type"],
    }


def _safetensors(folder: str | None) -> list[str]:
    """The weights that lie in the plan's folder, where it is here."""
    try:
        return sorted(path.name for path in Path(folder).expanduser().glob("model*.safetensors")) if folder is not None else []
    except (OSError, ValueError):
        return []


def _dataset(data: Data, packed: bool) -> dict[str, Any]:
    source: dict[str, Any] = {"source": data.format, "data_files": data.path, "split": "train", "packed": packed}
    if data.shape == "instruction":
        return {"_component_": "torchtune.datasets.alpaca_dataset", **source, "train_on_input": data.learns_all}
    if data.shape == "text":
        return {"_component_": "torchtune.datasets.text_completion_dataset", **source, "column": "text", "add_eos": True}
    conversation = {"conversation_column": "messages", "conversation_style": "openai"}
    return {"_component_": "torchtune.datasets.chat_dataset", **source, **conversation, "train_on_input": data.learns_all}


def _length(account: Account, data: Data) -> dict[str, Any]:
    """Epochs are whole, steps are counted per epoch, and the warm-up is a number of steps, so all three depend on the rows."""
    recipe = account.recipe
    epochs, per_epoch = math.ceil(recipe.epochs), None
    rows = rows_of(data)
    steps_of_rows = rows // (recipe.sequences_per_step * account.processes) if rows else None
    if recipe.max_steps:
        epochs, per_epoch = 1, recipe.max_steps
        if steps_of_rows is None or steps_of_rows < recipe.max_steps:
            epochs = math.ceil(recipe.max_steps / steps_of_rows) if steps_of_rows else 1
            account.cannot("max_steps", say("torchtune_steps", epochs=epochs))
        steps: int | None = recipe.max_steps
    else:
        if epochs != recipe.epochs:
            account.cannot("epochs", say("torchtune_epochs", epochs=epochs))
        steps = steps_of_rows * epochs if steps_of_rows else None
    if steps is None and recipe.warmup_ratio:
        account.cannot("warmup_ratio", say("torchtune_warmup"))
    scheduler = {**_SCHEDULES[recipe.schedule], "num_warmup_steps": math.ceil(recipe.warmup_ratio * (steps or 0))}
    return {"epochs": epochs, "max_steps_per_epoch": per_epoch, "lr_scheduler": scheduler}


def _literal(value: Any) -> Any:
    r"""Values that OmegaConf takes as they are: it would fill in ${...}; \${ is the text, and backslashes before it count double."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
    if isinstance(value, dict):
        return {key: _literal(each) for key, each in value.items()}
    return [_literal(each) for each in value] if isinstance(value, list) else value


TORCHTUNE = Target(
    name="torchtune",
    title="torchtune 0.6.1 (tune run)",
    translates=RECIPE_FIELDS,
    export=_export,
    stack="torchtune",
)
