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

import dataclasses

from benchmarks.accuracy.case import Case, Excluded, Row, peak
from benchmarks.accuracy.throughput.run import Run, run_of
from ftadvise.estimator.recipe import Recipe

SOURCE = "torchtune"
_TARGETS: dict[str, tuple[str, ...]] = {name: (name,) for name in ("q_proj", "k_proj", "v_proj")}
_TARGETS |= {"output_proj": ("o_proj",), "mlp": ("gate_proj", "up_proj", "down_proj"), "lm_head": ("lm_head",)}
_LENGTH = "the longest batch: lengths are not published; priced at Alpaca's longest sample, 1,304 tokens"
_README = ("the metric", "checkpointing", "the longest batch: 2,048 tokens is what the table prints as 'Seq Length'")
_GPU = "the GPU: not named; priced on an A100-80GB"
_FUSED_STEP = "optimizer step fused into backward (7B_full_low_memory, optimizer_in_bwd): not in the recipe vocabulary"
_OPEN_SPEED = (
    "checkpointing: the recipes' default is taken",
    "the lengths: 'Seq Length' is taken as the length of every batch",
    "rank, targets, accumulation: the repository's recipes",
)
_ALL_GPUS = "whether the figure is of one GPU: of one, 70B on A100s would exceed the hardware, so it is read as that of all"
_COMPILED = "torch.compile, which fuses element-wise kernels"
_LONGEST_ALPACA = 1304


def case(row: Row) -> Case | Excluded:
    """The run of one row."""
    if row["method"] == "full":
        return Excluded(row["id"], SOURCE, _FUSED_STEP)
    return _built(row)


def speed(row: Row) -> Run | Excluded:
    """The speed of one row."""
    if "readme" not in row["id"]:
        return Excluded(row["id"], SOURCE, "neither the GPU nor the lengths are published")
    n_gpus, full = int(row["n_gpus"]), row["method"] == "full"
    if full and n_gpus == 1:
        return Excluded(row["id"], SOURCE, _FUSED_STEP)
    if full and "70b" in row["model"]:
        return Excluded(row["id"], SOURCE, "70B in full on 8 GPUs of 80 GB needs offload to host memory, which is not stated")
    found = _built(row)
    recipe = found.recipe.replace(gradient_accumulation=1, sharding="fsdp" if n_gpus > 1 else "none", method="full" if full else "lora")
    found = dataclasses.replace(found, gpu="RTX 4090" if row["gpu"] == "RTX 4090" else "A100 SXM4 80GB", n_gpus=n_gpus, recipe=recipe)
    unknown = [*_OPEN_SPEED, *([_ALL_GPUS] if n_gpus > 1 else []), *([_COMPILED] if row["compile"] == "True" else [])]
    return run_of(found, row, tokens_per_step=n_gpus * recipe.micro_batch * recipe.seq_len, unknown=unknown)


def _built(row: Row) -> Case:
    readme = row["id"].startswith("torchtune-readme")
    quantised = row["base_dtype"] == "nf4"
    targets = tuple(name for word, names in _TARGETS.items() if word in row["target_modules"] for name in names)
    recipe = Recipe(
        method="lora",
        quantization="nf4" if quantised else "none",
        double_quantization=quantised,
        compute_dtype="bf16",
        adapter_dtype="bf16",
        rank=int(row["rank"] or 8),
        alpha=16,
        dropout=0.05,
        target_modules=targets or ("all-linear",),
        micro_batch=int(row["micro_batch_size"]),
        gradient_accumulation=int(row["grad_accum"] or 1),
        seq_len=int(row["seq_len"] or _LONGEST_ALPACA),
        gradient_checkpointing=True,
        attention="sdpa",
        loss="full",
        optimizer="adamw_torch",
        max_grad_norm=0.0,
    )
    return Case(
        id=row["id"],
        source=SOURCE,
        model=row["model"],
        gpu="RTX 4090" if readme else "A100 SXM4 80GB",
        recipe=recipe,
        stack="torchtune==0.1.1" if "Apr 2024" in row["framework"] else "torchtune==0.1",
        measured=peak(row, "device_used" if readme else "reserved", named=not readme),
        unknown=_README if readme else (_LENGTH, _GPU),
    )
