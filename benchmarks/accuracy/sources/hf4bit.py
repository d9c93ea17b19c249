"""Hugging Face's 4-bit announcement: what fits a 16 GB T4 and what runs out of memory (fits_or_not.csv, ids `hf4bit-*`).

Settings, from huggingface/blog 4bit-transformers-bitsandbytes.md and the notebook it links: TRL's SFTTrainer of May 2023 on transformers
4.30 after `prepare_model_for_kbit_training`, batch 1 x accumulation 4, AdamW. Rank and targets are in a linked file and not on the page:
the verdict has to hold for rank 8 on q and v as for rank 64 on all linear layers. The T4 has no bf16; rows that say bf16 are priced in
fp16, which takes the same bytes. Rows without checkpointing are priced unprepared: that function switches checkpointing on (peft 0.4.0
utils/other.py, use_gradient_checkpointing=True by default), so a run without it cannot have called it as it is.
"""

from __future__ import annotations

from benchmarks.accuracy.case import Row, Verdict, flag
from ftadvise.estimator.recipe import Recipe

SOURCE = "HF 4-bit blog"
_MODELS = {"decapoda-research/llama-7b-hf": "huggyllama/llama-7b", "decapoda-research/llama-13b-hf": "huggyllama/llama-13b"}
_CORNERS = ((8, ("q_proj", "v_proj")), (64, ("all-linear",)))


def verdict(row: Row) -> Verdict:
    """The run of one row, at both ends of what its open settings may be."""
    recipes = tuple(
        Recipe(
            method="lora",
            quantization=row["base_dtype"],  # type: ignore[arg-type]
            double_quantization=flag(row["double_quant"]),
            compute_dtype="fp16",
            adapter_dtype="fp32",
            rank=rank,
            alpha=16,
            dropout=0.05,
            target_modules=targets,
            micro_batch=int(row["micro_batch_size"]),
            gradient_accumulation=int(row["grad_accum"]),
            seq_len=int(row["seq_len"]),
            gradient_checkpointing=flag(row["gradient_checkpointing"]),
            attention="eager",
            loss="full",
            optimizer="adamw_torch",
        )
        for rank, targets in _CORNERS
    )
    return Verdict(
        id=row["id"],
        source=SOURCE,
        model=_MODELS[row["model"]],
        gpu="T4",
        recipes=recipes,
        stack="transformers-4-kbit==4.30" if flag(row["gradient_checkpointing"]) else "transformers-4==4.30",
        fits=flag(row["fits"]),
    )
