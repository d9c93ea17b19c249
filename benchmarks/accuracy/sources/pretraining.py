"""llm-foundry and InternEvo: full pre-training speed on 8 to 1,024 GPUs (ids `llmfoundry-*`, `internevo-*`; speeds only).

Settings:

- llm-foundry (scripts/train/benchmarking of mosaicml/llm-foundry: README.md, submit_benchmarks.py; yamls/pretrain/mpt-*.yaml): MPT under
  Composer and FSDP full shard, packed rows of C4, flash attention, low-precision layer norm, fused cross entropy, decoupled AdamW on fp32
  parameters, gradients clipped at 1, checkpointing by row. `amp_bf16`: mixed precision DEFAULT (gradients reduced in fp32); `bf16`: PURE
  (reduced in 16 bit). Checkpoints are not reentrant. Priced as OPT under transformers' Trainer (models.py).
- InternEvo (doc/en/train_performance.md, configs/7B_sft.py of InternLM/InternEvo): InternLM-7B in bf16, packed, flash attention, Apex'
  fused kernels, optimizer state split over the 8 GPUs of a machine (`zero1=8`), gradients reduced over all, overlapped.
- Tokens per second and GPU. A machine has 8 GPUs; machines are joined by 1.6 Tbit/s (llm-foundry) and 4 x 100 Gbit/s (InternEvo) of RoCE.
"""

from __future__ import annotations

from benchmarks.accuracy.case import Case, Excluded, Row, flag
from benchmarks.accuracy.throughput.run import Run, run_of
from ftadvise.estimator.recipe import Recipe

FOUNDRY, INTERNEVO = "llm-foundry", "InternEvo"
_GPUS = {"h100_80gb": "H100 SXM5 80GB", "a100_80gb": "A100 SXM4 80GB", "a100_40gb": "A100 SXM4 40GB", "A100-SXM4-80GB": "A100 SXM4 80GB"}
_OWN_CODE = "the training code: its own, with fused kernels, priced as transformers' Trainer"
_MACHINES = "several machines: the network between them is not in the hardware's vocabulary"
_PER_MACHINE = 8


def speed(row: Row) -> Run | Excluded:
    """The speed of one row."""
    foundry = row["id"].startswith("llmfoundry")
    source = FOUNDRY if foundry else INTERNEVO
    if row["base_dtype"] == "amp_fp8":
        return Excluded(row["id"], source, "fp8 products: not in the recipe vocabulary")
    n_gpus = int(row["n_gpus"])
    mixed = row["base_dtype"] == "amp_bf16" or foundry
    recipe = Recipe(
        method="full",
        compute_dtype="bf16",
        micro_batch=int(row["micro_batch_size"]),
        gradient_accumulation=int(row["grad_accum"]),
        seq_len=int(row["seq_len"]),
        packing=True,
        gradient_checkpointing=flag(row["gradient_checkpointing"]),
        attention="flash_attention_2",
        loss="full",
        optimizer="adamw_torch" if foundry else "adamw_torch_fused",
        sharding="fsdp" if foundry else "zero1",
    )
    case = Case(
        id=row["id"],
        source=source,
        model=row["model"].split(" ")[0],
        gpu=_GPUS[row["gpu"]],
        recipe=recipe,
        stack="transformers-4==4.31",
        stack_flags={"autocast": mixed, "full_dtype": "fp32" if mixed else "compute", "reentrant_checkpoints": not foundry},
        measured=(),
        n_gpus=n_gpus,
    )
    unknown = [_OWN_CODE, _MACHINES] if n_gpus > _PER_MACHINE else [_OWN_CODE]
    tokens = recipe.micro_batch * recipe.gradient_accumulation * recipe.seq_len
    return run_of(case, row, tokens_per_step=tokens, unknown=unknown, alike=row["base_dtype"])
