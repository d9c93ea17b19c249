"""LLaMA-Factory's training YAML. Keys and defaults from llamafactory 0.9.5 hparams/{model,data,finetuning}_args.py."""

from __future__ import annotations

from typing import Any

from ftadvise.advisor.importing.imported import Imported
from ftadvise.advisor.importing.reader import Reader
from ftadvise.advisor.importing.sharding import WHOLE, deepspeed, fsdp
from ftadvise.advisor.importing.trainer import training_arguments

MARKS = frozenset(
    {"stage", "finetuning_type", "cutoff_len", "lora_target", "lora_rank", "template", "quantization_bit", "dataset_dir", "flash_attn"}
)
_ATTENTION = {"auto": "sdpa", "disabled": "eager", "sdpa": "sdpa", "fa2": "flash_attention_2"}


def read(reader: Reader) -> Imported:
    """The configuration in our words.

    Raises:
        InputError: not supervised fine-tuning with LoRA or of all weights, or a value of the wrong kind.
    """
    stage = reader.text("stage", "sft")
    if stage not in ("sft", "pt"):
        raise reader.refuse("stage", "only supervised fine-tuning and pre-training are priced", "stage: sft")
    attention = str(reader.text("flash_attn", "auto"))
    if attention not in _ATTENTION:
        reader.assume("assume_value", key="flash_attn", value=attention, instead="flash_attention_2")
    packing = reader.flag("packing", stage == "pt") | reader.flag("neat_packing")
    compute = reader.compute_dtype()
    if not compute:
        reader.assume("assume_dtype")
    reader.flag("use_reentrant_gc", True)
    fields = {
        **training_arguments(reader, learning_rate=5e-5, optimizer="adamw_torch_fused"),
        **_adapter(reader),
        **_quantization(reader),
        **compute,
        "seq_len": reader.whole("cutoff_len", 2048),
        "packing": packing,
        "gradient_checkpointing": not reader.flag("disable_gradient_checkpointing"),
        "attention": _ATTENTION.get(attention, "flash_attention_2"),
        "loss": "fused" if reader.flag("enable_liger_kernel") else "full",
        **(deepspeed(reader) or fsdp(reader) or WHOLE),
    }
    return reader.imported("LLaMA-Factory", "llama-factory", reader.text("model_name_or_path"), fields)


def _adapter(reader: Reader) -> dict[str, Any]:
    kind = reader.text("finetuning_type", "lora")
    if kind not in ("lora", "full"):
        raise reader.refuse("finetuning_type", "is not priced", "finetuning_type: lora or full")
    rank = reader.whole("lora_rank", 8)
    targets = reader.names("lora_target") or ("all",)
    fields = {
        "rank": rank,
        "alpha": reader.whole("lora_alpha", 0) or 2 * rank,
        "dropout": reader.number("lora_dropout", 0.0),
        "target_modules": ("all-linear",) if targets == ("all",) else targets,
        "method": "dora" if reader.flag("use_dora") else "lora",
        "rslora": reader.flag("use_rslora"),
    }
    return fields if kind == "lora" else {"method": "full"}


def _quantization(reader: Reader) -> dict[str, Any]:
    bits = reader.take("quantization_bit")
    kind, double = reader.text("quantization_type", "nf4"), reader.flag("double_quantization", True)
    if bits is None:
        return {"quantization": "none"}
    if bits not in (4, 8) or reader.values.get("quantization_method", "bnb") not in ("bnb", "bitsandbytes"):
        raise reader.refuse("quantization_bit", "only bitsandbytes with 4 or 8 bits is priced", "quantization_method: bnb")
    return {"quantization": "int8"} if bits == 8 else {"quantization": kind, "double_quantization": double}
