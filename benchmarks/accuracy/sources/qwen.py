"""Qwen's README: profile of memory and speed on A100-80GB (ids `qwen1-*`).

Settings, from QwenLM/Qwen (README.md, finetune.py, finetune/*.sh):

- The Trainer of transformers 4 with bf16 autocast, weights in bf16, batch 1 x accumulation 8, AdamW of torch, FlashAttention-2. Rows are
  padded to `model_max_length`, so the peak length is exact, with a padding mask. The model is Qwen's own code: full logits, no fp32 copy
  except what autocast makes for the loss.
- LoRA rank 64, alpha 16, dropout 0.05 on c_attn, c_proj, w1, w2 (every linear layer but the head); adapters fp32.
- Speed: seconds of one optimizer step, which is eight micro batches of one row of exactly this length.
- Checkpointing comes from the shell scripts that ship with it; the table does not say. Neither does it say what "memory" was read from.
"""

from __future__ import annotations

import dataclasses

from benchmarks.accuracy.case import Case, Excluded, Row, peak
from benchmarks.accuracy.throughput.run import Run, published
from ftadvise.estimator.recipe import Recipe

SOURCE = "Qwen README"
_TARGETS = ("c_attn", "c_proj", "w1", "w2")
_OPEN = ("the metric and its unit: the table says 'memory (GB)'", "checkpointing: on in the shell scripts, not stated")
_OPEN_SPEED = ("checkpointing: on in the shell scripts, not stated", "one decimal of a second")
_NETWORK = "the network between two machines"
_EMBEDDINGS = "embedding and head are trained in full beside LoRA: the recipe has no such field"
_GPTQ = "GPTQ int4 base in fp16 under DeepSpeed ZeRO-2, priced as NF4 in fp16 under the Trainer"
_ZERO3 = "full fine-tuning under DeepSpeed ZeRO-3, on one GPU priced under the Trainer"


def case(row: Row) -> Case | Excluded:
    """The run of one row."""
    if row["base_dtype"].startswith("int4"):
        return Excluded(row["id"], SOURCE, "GPTQ int4 base in fp16 under DeepSpeed ZeRO-2: not in the recipe vocabulary")
    if row["modules_to_save"]:
        return Excluded(row["id"], SOURCE, _EMBEDDINGS)
    if row["method"] == "full":
        return Excluded(row["id"], SOURCE, "DeepSpeed ZeRO-3 on one GPU with fp32 master states: its own engine, not our full fine-tuning")
    return _lora(row)


def speed(row: Row) -> Run | Excluded:
    """The speed of one row."""
    if row["modules_to_save"]:
        return Excluded(row["id"], SOURCE, _EMBEDDINGS)
    found, approximated = _lora(row), ""
    n_gpus, recipe = int(row["n_gpus"]), found.recipe
    if row["base_dtype"].startswith("int4"):
        approximated = _GPTQ
        recipe = recipe.replace(quantization="nf4", compute_dtype="fp16")
        found = dataclasses.replace(found, model=row["model"].removesuffix("-Int4"))
    elif row["method"] == "full":
        approximated = _ZERO3
        recipe = recipe.replace(method="full", sharding="zero3" if n_gpus > 1 else "none")
    elif n_gpus > 1:
        recipe = recipe.replace(sharding="ddp")
    value, unit = published(row)
    return Run(
        dataclasses.replace(
            found, recipe=recipe, n_gpus=n_gpus, unknown=(*_OPEN_SPEED, _NETWORK) if "multinode" in row["id"] else _OPEN_SPEED
        ),
        value,
        f"{value:g} {unit.partition(' (')[0]}",
        approximated=approximated,
        alike=row["framework"],
    )


def _lora(row: Row) -> Case:
    recipe = Recipe(
        method="lora",
        compute_dtype="bf16",
        adapter_dtype="fp32",
        rank=64,
        alpha=16,
        dropout=0.05,
        target_modules=_TARGETS,
        micro_batch=1,
        gradient_accumulation=8,
        seq_len=int(row["seq_len"]),
        gradient_checkpointing=True,
        attention="flash_attention_2",
        loss="full",
        optimizer="adamw_torch",
    )
    return Case(
        id=row["id"],
        source=SOURCE,
        model=row["model"],
        gpu="A100 SXM4 80GB",
        recipe=recipe,
        stack="transformers-4==4.31",  # requirements.txt, in the version at hand
        stack_flags={"autocast": True},
        measured=peak(row, "device_used", named=False),
        unknown=_OPEN,
    )
