"""TRL's `trl sft --config` YAML. Keys and defaults from trl 1.16.0 trainer/{sft_config,base_config,model_config}.py."""

from __future__ import annotations

from typing import Any

from ftadvise.advisor.importing.imported import Imported
from ftadvise.advisor.importing.reader import Reader
from ftadvise.advisor.importing.sharding import WHOLE, accelerate, deepspeed, fsdp
from ftadvise.advisor.importing.trainer import training_arguments

MARKS = frozenset(
    {"use_peft", "lora_r", "lora_target_modules", "load_in_4bit", "dataset_name", "dataset_text_field", "attn_implementation", "dtype"}
)
_DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_ATTENTION = ("eager", "sdpa", "flash_attention_2")


def read(reader: Reader) -> Imported:
    """The configuration in our words.

    Raises:
        InputError: a value of the wrong kind.
    """
    attention = str(reader.text("attn_implementation", "sdpa"))
    if attention not in _ATTENTION:
        reader.assume("assume_value", key="attn_implementation", value=attention, instead="flash_attention_2")
    checkpointing = reader.take("activation_checkpointing", reader.take("gradient_checkpointing", True))
    reader.take("gradient_checkpointing_kwargs")
    fields = {
        **training_arguments(reader, learning_rate=2e-5, optimizer="adamw_torch_fused"),
        **_dtype(reader),
        **_adapter(reader),
        "seq_len": reader.whole("max_length", 1024),
        "packing": reader.flag("packing"),
        "gradient_checkpointing": checkpointing is True,
        "attention": attention if attention in _ATTENTION else "flash_attention_2",
        "loss": "fused",
        **(accelerate(reader) or deepspeed(reader) or fsdp(reader) or WHOLE),
    }
    reader.text("loss_type")
    return reader.imported("TRL", "trl", reader.text("model_name_or_path"), fields)


def _dtype(reader: Reader) -> dict[str, Any]:
    """Weights load in `dtype`, fp32 unless it is said; autocast is bf16 unless it is off. Where they differ the larger one is priced."""
    loads = _DTYPES.get(str(reader.text("dtype", "float32")))
    bf16 = reader.flag("bf16", not reader.flag("fp16"))
    computes = "bf16" if bf16 else "fp16" if reader.flag("fp16") else "fp32"
    if loads == "fp32" and computes != "fp32":
        reader.assume("assume_fp32_weights", computes=computes)
    return {"compute_dtype": "fp32" if loads == "fp32" else computes}


def _adapter(reader: Reader) -> dict[str, Any]:
    quantization: dict[str, Any] = {"quantization": "none"}
    kind, double = reader.text("bnb_4bit_quant_type", "nf4"), reader.flag("use_bnb_nested_quant")
    reader.take("bnb_4bit_quant_storage")
    if reader.flag("load_in_8bit"):
        quantization = {"quantization": "int8"}
    elif reader.flag("load_in_4bit"):
        quantization = {"quantization": kind, "double_quantization": double}
    targets = reader.names("lora_target_modules")
    fields = {
        "method": "dora" if reader.flag("use_dora") else "lora",
        "rslora": reader.flag("use_rslora"),
        "rank": reader.whole("lora_r", 16),
        "alpha": reader.whole("lora_alpha", 32),
        "dropout": reader.number("lora_dropout", 0.05),
        "target_modules": targets or ("q_proj", "v_proj"),  # PEFT's own choice for most models
        **quantization,
    }
    if not reader.flag("use_peft"):
        return {"method": "full", "quantization": "none"}
    if not targets:
        reader.assume("assume_value", key="lora_target_modules", value="(PEFT)", instead="q_proj, v_proj")
    return fields | ({"adapter_dtype": "bf16"} if quantization["quantization"] != "none" else {})
