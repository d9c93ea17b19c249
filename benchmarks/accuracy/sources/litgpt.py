"""litgpt: its own training code, Lightning Fabric, on A100-40GB and A10G (ids `litgpt-*`).

Settings, from Lightning-AI/litgpt (finetune/lora.py of 2023 for the resource tables, litgpt/finetune/lora.py and config_hub for the rest):

- Weights, adapters and optimizer state in bf16 (`bf16-true`), no autocast; AdamW of torch, with bitsandbytes its paged 32-bit AdamW; no
  checkpointing, no gradient clipping, SDPA with a causal flag and no padding mask.
- The model is its own: estimator/tape/litgpt.py; what Fabric and bitsandbytes add is in profiles/stacks.yaml and losses.yaml.
- lit_gpt's RMSNorm at the commit of the tables (20 October 2023) could not be read. It stands between pull request 606, "Half precision
  fixes" (3 October 2023), and litgpt 0.2.0, which works in fp32.
- Resource tables: the first batch holds the longest sample of Alpaca, so the peak is at exactly that length (1,304 tokens with Llama's
  tokenizer, 1,034 with StableLM's), and there is no step before it whose loss could still be held. Configuration hub: rows are cut at
  512 and padded to the longest of the batch.
- Metric: `max_memory_allocated / 1e9`, in decimal GB, converted.
- Speed: "Time 1k iterations", micro batches padded to the longest of their samples, a loss read after each. Two GPUs and more: FSDP by
  block with checkpoints.
"""

from __future__ import annotations

import dataclasses
import statistics

from benchmarks.accuracy.case import Case, Excluded, Row, flag, peak
from benchmarks.accuracy.throughput.lengths import batch_lengths
from benchmarks.accuracy.throughput.run import Run, published
from ftadvise.estimator.recipe import Recipe

SOURCE = "litgpt"
_TABLES, _HUB = "0.1", "0.4"  # lit-gpt before its first release; config_hub names Phi-3
_LENGTHS = "the lengths of the 1,000 micro batches: priced at an assumed distribution of Alpaca (throughput/lengths.yaml)"
_VALIDATION = "whether the time holds the first validation (100 passes, 100 generated tokens), which is 5 % of it"
_LLAMA: dict[str, tuple[str, ...]] = {
    "q": ("q_proj",),
    "query": ("q_proj",),
    "v": ("v_proj",),
    "value": ("v_proj",),
    "key": ("k_proj",),
    "projection": ("o_proj",),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
    "head": ("lm_head",),
}
_PHI = _LLAMA | dict.fromkeys(("query", "key", "value"), ("qkv_proj",)) | {"mlp": ("gate_up_proj", "down_proj")}
_TARGETS: dict[str, dict[str, tuple[str, ...]]] = {
    "meta-llama/Llama-2-7b-hf": _LLAMA,
    "meta-llama/Llama-2-13b-hf": _LLAMA,
    "stabilityai/stablelm-base-alpha-3b": _LLAMA,
    "microsoft/Phi-3-mini-4k-instruct": _PHI,
}


def case(row: Row) -> Case | Excluded:
    """The run of one row."""
    if row["method"] not in ("lora", "qlora"):
        return Excluded(row["id"], SOURCE, f"method {row['method']} (LLaMA-Adapter): not in the recipe vocabulary")
    if row["base_dtype"].startswith("fp32"):
        return Excluded(row["id"], SOURCE, "fp32 weights under bf16 autocast: the recipe has one compute dtype for both")
    unknown = [] if "actual longest" in row["seq_len_kind"] else ["the longest batch: 512 tokens is a limit on rows of alpaca2k"]
    quantised = row["base_dtype"] == "nf4"
    recipe = Recipe(
        method="lora",
        quantization="nf4" if quantised else "none",
        double_quantization=flag(row["double_quant"]),
        compute_dtype="bf16",
        adapter_dtype="bf16",
        rank=int(row["rank"]),
        alpha=16,
        dropout=0.05,
        target_modules=_targets(row),
        micro_batch=int(row["micro_batch_size"]),
        gradient_accumulation=int(row["grad_accum"]),
        seq_len=int(row["seq_len"]),
        gradient_checkpointing=False,
        attention="sdpa",
        loss="full",
        optimizer="paged_adamw_32bit" if quantised else "adamw_torch",
        max_grad_norm=0.0,
    )
    return Case(
        id=row["id"],
        source=SOURCE,
        model=row["model"],
        gpu="A100 SXM4 40GB" if row["gpu"].startswith("A100") else "A10G",
        recipe=recipe,
        stack=f"litgpt=={_HUB if row['id'].startswith('litgpt-hub') else _TABLES}",
        measured=peak(row, "allocated"),
        unknown=tuple(unknown),
        stack_flags={} if unknown else {"keeps_last_step": False},
    )


def _targets(row: Row) -> tuple[str, ...]:
    words = [word.strip(' "[]') for word in row["target_modules"].split(",")]
    return tuple(dict.fromkeys(name for word in words for name in _TARGETS[row["model"]][word]))


def speed(row: Row) -> Run | Excluded:
    """The speed of one row: seconds of a micro batch, mean over 1,000 of them, padded to the longest sample of each."""
    if not row["throughput"]:
        return Excluded(
            row["id"], SOURCE, "only the run time of whole runs, validation and saving included, is published (their pairs count)"
        )
    found = case(row)
    if isinstance(found, Excluded):
        return found
    n_gpus = int(row["n_gpus"])
    if n_gpus > 1:
        recipe = found.recipe.replace(sharding="fsdp", gradient_checkpointing=flag(row["gradient_checkpointing"]))
        found = dataclasses.replace(found, n_gpus=n_gpus, recipe=recipe)
    tokenizer = "neox" if row["seq_len"] == "1034" else "llama"
    lengths = batch_lengths("alpaca", found.recipe.micro_batch, tokenizer)
    value, unit = published(row)
    found = dataclasses.replace(
        found, recipe=found.recipe.replace(seq_len=round(statistics.fmean(lengths))), unknown=(_LENGTHS, _VALIDATION)
    )
    seconds = value * found.recipe.gradient_accumulation
    return Run(found, seconds, f"{value:g} {unit.partition(',')[0]}", lengths=lengths, alike=row["framework"])
