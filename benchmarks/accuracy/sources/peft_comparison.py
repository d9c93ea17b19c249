"""PEFT's method comparison on MetaMathQA: Llama-3.2-3B on one L40S (ids `peft-mmqa-*`).

Settings, from method_comparison/MetaMathQA of huggingface/peft (run.py, utils.py, data.py, default_training_params.json):

- A plain training loop: weights in bf16, no autocast, adapters in fp32 (`autocast_adapter_dtype`), batch 4, AdamW of torch, gradients
  clipped at 1, no checkpointing, transformers' default attention (SDPA) and full logits. The model's output stays alive through backward
  and the optimizer step, logits and key-value cache (`use_cache` is on by default) included.
- LoRA, DoRA: rank 32, alpha 64, dropout 0. Prompt tuning: 200 virtual tokens. IA3: three vectors a layer.
- Metric: `max_memory_reserved` of the whole process: training, validation by generation (batch 50, at most 800 tokens) and, in the newer
  runs, a loss over Wikipedia texts (batch 4, at most 768 tokens).
- Texts of more than 1,300 characters are dropped, a limit chosen so that none has more than 768 tokens (data.py), and rows are cut
  there. The longest batch that came up is not published; LoRA, IA3 and full fine-tuning agree with one of about 768 tokens.
- Speed: unpadded tokens over the time of the training steps, from the padding of a batch to the reading of its loss; validation, and the
  emptying of the cache, are not in it. Batches are made of 80 samples sorted by length.
- Until 2025-11-13 the cache was emptied after every step, later every 10 steps.
"""

from __future__ import annotations

import dataclasses
import json
import statistics

from benchmarks.accuracy.case import Case, Excluded, Row, flag, peak, version_in
from benchmarks.accuracy.throughput.lengths import batch_lengths
from benchmarks.accuracy.throughput.run import Run, published
from ftadvise.estimator.recipe import Recipe

SOURCE = "PEFT method comparison"
_METHODS = {"lora": "lora", "dora": "dora", "ia3": "ia3", "full": "full"}
_BATCH_LENGTHS = "the lengths of the batches: limit and total are published, the distribution is assumed (throughput/lengths.yaml)"
_OPEN_LENGTH = "the longest batch: 768 tokens is a limit, the lengths that came up are not published"


def case(row: Row) -> Case | Excluded:
    """The run of one row."""
    method = row["method"]
    if method == "prompt":
        return Excluded(
            row["id"], SOURCE, "prompt tuning with 200 virtual tokens: the recipe vocabulary has prompt tuning with PEFT's usual 20"
        )
    if method not in _METHODS:
        return Excluded(row["id"], SOURCE, "a method of PEFT that is not in the recipe vocabulary (column `method`)")
    recipe = Recipe(
        method=_METHODS[method],  # type: ignore[arg-type]
        compute_dtype="bf16",
        adapter_dtype="fp32",
        rank=int(row["rank"] or 32),
        alpha=64,
        dropout=0.0,
        target_modules=tuple(json.loads(row["target_modules"])) if row["target_modules"] else ("all-linear",),
        micro_batch=4,
        gradient_accumulation=1,
        seq_len=int(row["seq_len"]),
        gradient_checkpointing=flag(row["gradient_checkpointing"]),
        attention="sdpa",
        loss="full",
        optimizer="adamw_torch",
    )
    return Case(
        id=row["id"],
        source=SOURCE,
        model=row["model"],
        gpu="L40S",
        recipe=recipe,
        stack=f"transformers=={version_in(row['framework'], 'transformers')}",
        stack_flags={"autocast": False, "keeps_logits": True},
        measured=peak(row, "reserved"),
        unknown=(_OPEN_LENGTH,),
    )


def speed(row: Row) -> Run | Excluded:
    """The speed of one row."""
    if not row["s_per_step"]:
        return Excluded(row["id"], SOURCE, "GPU, rank and targets are not stated (documentation of VeLoRA)")
    found = case(row)
    if isinstance(found, Excluded):
        return found
    lengths = batch_lengths("metamathqa", found.recipe.micro_batch, "llama3")
    found = dataclasses.replace(found, recipe=found.recipe.replace(seq_len=round(statistics.fmean(lengths))), unknown=(_BATCH_LENGTHS,))
    value, unit = published(row)
    return Run(found, float(row["s_per_step"]), f"{value:g} {unit}", lengths=lengths, alike=row["framework"].partition("(")[0])
