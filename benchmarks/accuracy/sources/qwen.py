"""Qwen's README: profile of memory and speed on A100-80GB (ids `qwen1-*`).

Settings, from QwenLM/Qwen (README.md, finetune.py, finetune/*.sh):

- The Trainer of transformers 4 with bf16 autocast, weights in bf16, batch 1 x accumulation 8, AdamW of torch, FlashAttention-2. Rows are
  padded to `model_max_length`, so the peak length is exact, with a padding mask. The model is Qwen's own code: full logits, no fp32 copy
  except what autocast makes for the loss.
- LoRA rank 64, alpha 16, dropout 0.05 on c_attn, c_proj, w1, w2 (every linear layer but the head); adapters fp32.
- Checkpointing comes from the shell scripts that ship with it; the table does not say. Neither does it say what "memory" was read from.
"""

from __future__ import annotations

from benchmarks.accuracy.case import Case, Excluded, Measurement, Row, gib
from ftadvise.estimator.recipe import Recipe

SOURCE = "Qwen README"
_TARGETS = ("c_attn", "c_proj", "w1", "w2")
_OPEN = ("the metric and its unit: the table says 'memory (GB)'", "checkpointing: on in the shell scripts, not stated")


def case(row: Row) -> Case | Excluded:
    """The run of one row."""
    if row["base_dtype"].startswith("int4"):
        return Excluded(row["id"], SOURCE, "GPTQ int4 base in fp16 under DeepSpeed ZeRO-2: not in the recipe vocabulary")
    if row["modules_to_save"]:
        return Excluded(row["id"], SOURCE, "embedding and head are trained in full beside LoRA: the recipe has no such field")
    if row["method"] == "full":
        return Excluded(row["id"], SOURCE, "DeepSpeed ZeRO-3 on one GPU with fp32 master states: its own engine, not our full fine-tuning")
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
        measured=(Measurement("device_used", gib(row["peak_mem_gib_norm"]), named=False),),
        unknown=_OPEN,
    )
