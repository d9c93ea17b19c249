"""Axolotl's YAML. Keys and defaults from axolotl 0.19.0 utils/schemas/{config,peft,training,enums}.py and loaders/model.py."""

from __future__ import annotations

from typing import Any

from ftadvise.advisor.importing.imported import Imported
from ftadvise.advisor.importing.reader import Reader
from ftadvise.advisor.importing.sharding import WHOLE, deepspeed, fsdp

MARKS = frozenset({"base_model", "micro_batch_size", "sequence_len", "sample_packing", "num_epochs", "lora_target_linear", "adapter"})
_FLAGS = {
    "flash_attention": "flash_attention_2",
    "sdp_attention": "sdpa",
    "eager_attention": "eager",
    "xformers_attention": "flash_attention_2",
    "flex_attention": "flash_attention_2",
    "sage_attention": "flash_attention_2",
}
_LIGER, _CUT = "axolotl.integrations.liger.LigerPlugin", "axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"


def read(reader: Reader) -> Imported:
    """The configuration in our words.

    Raises:
        InputError: not supervised fine-tuning with LoRA or of all weights, or a value of the wrong kind.
    """
    for key in ("rl", "reward_model", "process_reward_model", "gptq", "relora"):
        if reader.take(key):
            raise reader.refuse(key, "is not priced", "supervised fine-tuning with LoRA, QLoRA or of all weights is")
    micro = reader.whole("micro_batch_size", 1)
    total = reader.whole("batch_size", 0)
    steps = reader.number("warmup_steps", 0.0)
    if steps:
        reader.assume("assume_warmup", steps=f"{steps:g}")
    checkpointing = reader.take("gradient_checkpointing", False)
    if not isinstance(checkpointing, bool):
        reader.assume("assume_value", key="gradient_checkpointing", value=str(checkpointing), instead="true")
    reader.take("gradient_checkpointing_kwargs")
    fields = {
        **_adapter(reader),
        **_dtype(reader),
        "micro_batch": micro,
        "gradient_accumulation": max(1, total // micro) if total else reader.whole("gradient_accumulation_steps", 1),
        "seq_len": reader.whole("sequence_len", 512),
        "packing": reader.flag("sample_packing"),
        "gradient_checkpointing": bool(checkpointing),
        "attention": _attention(reader),
        "loss": _loss(reader),
        "optimizer": reader.optimizer("optimizer", "adamw_torch_fused"),
        "learning_rate": reader.number("learning_rate", 2e-4),
        "schedule": reader.schedule("lr_scheduler", "cosine"),
        "warmup_ratio": reader.number("warmup_ratio", 0.0 if steps else 0.03),
        "max_grad_norm": reader.number("max_grad_norm", 1.0),
        "epochs": reader.number("num_epochs", 1.0),
        "max_steps": max(0, reader.whole("max_steps", 0)),
        "seed": reader.whole("seed", 42),
        **(deepspeed(reader) or fsdp(reader) or WHOLE),
    }
    reader.take("pad_to_sequence_len")  # without packing, batches of the full length: the length that is priced
    return reader.imported("Axolotl", "axolotl", reader.text("base_model"), fields)


def _dtype(reader: Reader) -> dict[str, Any]:
    """`bf16` is "auto" unless it is said; with everything off it is fp32, or fp16 on an int8 base (utils/config/__init__.py)."""
    if reader.take("bfloat16") is True or reader.take("float16") is True:
        return {"compute_dtype": "bf16" if reader.take("bfloat16") is True else "fp16"}
    found = reader.compute_dtype()
    if found or reader.take("bf16", "auto") is not False:
        return found
    return {"compute_dtype": "fp16" if reader.take("load_in_8bit") is True else "fp32"}


def _adapter(reader: Reader) -> dict[str, Any]:
    adapter = reader.text("adapter")
    if adapter not in (None, "lora", "qlora"):
        raise reader.refuse("adapter", "is not priced", "adapter: lora or qlora")
    linear, targets = reader.flag("lora_target_linear"), reader.names("lora_target_modules")
    rank = reader.whole("lora_r", 8)
    autocast = reader.flag("peft_autocast_adapter_dtype", True)
    fields: dict[str, Any] = {
        "method": "dora" if reader.flag("peft_use_dora") else "lora",
        "rslora": reader.flag("peft_use_rslora"),
        "rank": rank,
        "alpha": reader.whole("lora_alpha", 2 * rank),
        "dropout": reader.number("lora_dropout", 0.0),
        "target_modules": ("all-linear",) if linear or not targets else targets,
        **_quantization(reader),
    }
    compute = _dtype(reader).get("compute_dtype")
    if not autocast and fields["quantization"] == "none" and compute:
        fields["adapter_dtype"] = compute
    return fields if adapter else {"method": "full", "quantization": "none"}


def _quantization(reader: Reader) -> dict[str, Any]:
    four, eight = reader.flag("load_in_4bit"), reader.flag("load_in_8bit")
    kwargs = reader.take("bnb_config_kwargs", {})
    if not isinstance(kwargs, dict):
        raise reader.wrong("bnb_config_kwargs", "a mapping")
    if eight:
        return {"quantization": "int8"}
    if not four:
        return {"quantization": "none"}
    skipped = tuple(str(each) for each in kwargs.get("llm_int8_skip_modules") or () if each != "lm_head")
    return {
        "quantization": str(kwargs.get("bnb_4bit_quant_type", "nf4")),
        "double_quantization": bool(kwargs.get("bnb_4bit_use_double_quant", True)),
        "high_precision_modules": skipped,
    }


def _attention(reader: Reader) -> str:
    said = reader.text("attn_implementation")
    flags = [words for key, words in _FLAGS.items() if reader.take(key) is True]
    if said in ("eager", "sdpa", "flash_attention_2"):
        return str(said)
    if said is not None:
        reader.assume("assume_value", key="attn_implementation", value=said, instead="flash_attention_2")
        return "flash_attention_2"
    return flags[0] if flags else "sdpa"


def _loss(reader: Reader) -> str:
    plugins = reader.names("plugins")
    liger = reader.flag("liger_fused_linear_cross_entropy") and _LIGER in plugins
    return "fused" if liger or (_CUT in plugins and reader.flag("cut_cross_entropy", True)) else "full"
