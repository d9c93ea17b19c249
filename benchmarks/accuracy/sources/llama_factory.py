"""LLaMA-Factory's wiki, performance comparison: Llama-2-7B on one A100-40GB (ids `llamafactory-wiki-*`).

Settings, from the wiki page of 2024-04-15: rank 8 on all linear layers, batch 4 x accumulation 2 at 1,024 tokens (first table), batch 1 x
accumulation 4 at 1k to 100k tokens (second). 4-bit is bitsandbytes' NF4 with double quantisation, which is LLaMA-Factory's default.
Checkpointing is its default and not stated; "VRAM" is whole GB and not named. Versions are taken from the date. LLaMA-Factory of
May 2024 passes `use_gradient_checkpointing="unsloth"`; copies of older versions do not, and 348 KB for each token between 65k and 100k
leave no room for offloading, so checkpoints are priced on the GPU. That choice rests on these rows and is listed as open.
"""

from __future__ import annotations

from benchmarks.accuracy.case import Case, Excluded, Row, peak
from benchmarks.accuracy.throughput.run import Run, run_of
from ftadvise.estimator.recipe import Recipe

SOURCE = "LLaMA-Factory wiki"
_OPEN = ("the metric: 'VRAM' in whole GB", "checkpointing: on by default, not stated")
_OFFLOAD = "whether Unsloth offloaded checkpoints: priced without, as the growth with length suggests"
_COUNTED = "what TGS counts: padded tokens of the batch are assumed"
_LIMIT = "the longest batch: 1,024 tokens is a limit"


def case(row: Row) -> Case | Excluded:
    """The run of one row."""
    quantised = row["method"] == "qlora"
    unknown = list(_OPEN)
    if row["seq_len_kind"] == "max":
        unknown.append(_LIMIT)
    if "Unsloth" in row["id"]:
        unknown.append(_OFFLOAD)
    recipe = Recipe(
        method="lora",
        quantization="nf4" if quantised else "none",
        double_quantization=quantised,
        compute_dtype="bf16",
        adapter_dtype="fp32",
        rank=8,
        alpha=16,
        dropout=0.0,
        target_modules=("all-linear",),
        micro_batch=int(row["micro_batch_size"]),
        gradient_accumulation=int(row["grad_accum"]),
        seq_len=int(row["seq_len"]),
        gradient_checkpointing=True,
        attention="flash_attention_2" if row["attention"] == "flash2" else "eager",
        loss="full",
        optimizer="adamw_torch",
    )
    return Case(
        id=row["id"],
        source=SOURCE,
        model=row["model"],
        gpu="A100 SXM4 40GB",
        recipe=recipe,
        stack="unsloth==2024.4" if "Unsloth" in row["id"] else "llama-factory==0.6.2",
        stack_flags={"offloads_checkpoints": False},
        measured=peak(row, "device_used", named=False),
        unknown=tuple(unknown),
    )


def speed(row: Row) -> Run | Excluded:
    """The speed of one row: tokens per GPU and second ("TGS")."""
    found = case(row)
    if isinstance(found, Excluded):
        return found
    unknown = [*(each for each in found.unknown if each != _OPEN[0]), _COUNTED]
    recipe = found.recipe
    tokens = recipe.micro_batch * recipe.gradient_accumulation * recipe.seq_len
    return run_of(found, row, tokens_per_step=tokens, unknown=unknown, alike=row["id"].split("-")[2] + found.stack)
