"""torchtune's README and tutorials of 2024: Llama-2-7B (ids `torchtune-*`).

Settings, from pytorch/torchtune (README.md, docs/source/tutorials, recipes/configs/llama2):

- Its own loop: weights, adapters and optimizer state in bf16, no autocast; single-device LoRA recipe with AdamW, checkpointing of every
  layer, SDPA, full logits in fp32. QLoRA is torchao's NF4 (block 64, scaler blocks of 256), not bitsandbytes'.
- alpaca_cleaned without packing and without a length limit in the tutorials: the longest batch is not published. The peak is priced at
  1,304 tokens, the longest sample of Alpaca with the same tokenizer and template (litgpt's tables), in every row of the batch.
- Full fine-tuning: recipes/configs/llama2/7B_full_low_memory.yaml (a later version was read) takes the optimizer step inside backward and
  pages the optimizer state out; neither is in the recipe vocabulary.
- README: RTX 4090, batch 4 x 2,048, metric not named, checkpointing not stated (the recipes' default is on).
"""

from __future__ import annotations

from benchmarks.accuracy.case import Case, Excluded, Measurement, Row, gib
from ftadvise.estimator.recipe import Recipe

SOURCE = "torchtune"
_QV = ("q_proj", "v_proj")
_ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_LENGTH = "the longest batch: lengths are not published; priced at Alpaca's longest sample, 1,304 tokens"
_README = ("the metric", "checkpointing", "the longest batch: 2,048 tokens is what the table prints as 'Seq Length'")
_GPU = "the GPU: not named; priced on an A100-80GB"
_LONGEST_ALPACA = 1304


def case(row: Row) -> Case | Excluded:
    """The run of one row."""
    if row["method"] == "full":
        return Excluded(
            row["id"], SOURCE, "optimizer step fused into backward (7B_full_low_memory, optimizer_in_bwd): not in the recipe vocabulary"
        )
    readme = row["id"].startswith("torchtune-readme")
    quantised = row["base_dtype"] == "nf4"
    targets = _QV if "k_proj" not in row["target_modules"] else _ALL + (("lm_head",) if "lm_head" in row["target_modules"] else ())
    recipe = Recipe(
        method="lora",
        quantization="nf4" if quantised else "none",
        double_quantization=quantised,
        compute_dtype="bf16",
        adapter_dtype="bf16",
        rank=int(row["rank"] or 8),
        alpha=16,
        dropout=0.05,
        target_modules=targets,
        micro_batch=int(row["micro_batch_size"]),
        gradient_accumulation=int(row["grad_accum"] or 1),
        seq_len=int(row["seq_len"] or _LONGEST_ALPACA),
        gradient_checkpointing=True,
        attention="sdpa",
        loss="full",
        optimizer="adamw_torch",
        max_grad_norm=0.0,
    )
    metric = Measurement("device_used" if readme else "reserved", gib(row["peak_mem_gib_norm"]), named=not readme)
    return Case(
        id=row["id"],
        source=SOURCE,
        model=row["model"],
        gpu="RTX 4090" if readme else "A100 SXM4 80GB",
        recipe=recipe,
        stack="torchtune==0.1.1" if "Apr 2024" in row["framework"] else "torchtune==0.1",
        measured=(metric,),
        unknown=_README if readme else (_LENGTH, _GPU),
    )
