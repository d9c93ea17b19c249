"""Published peaks of Mistral-7B on one A100-80GB against our estimate: the table in docs/memory_model.md.

Rows: fms-acceleration (data/README.md), packed to 4,096 tokens, checkpointing, FlashAttention-2, rank 16 on q, k, v, o, full logits. The
adapters are priced in fp32, which is what the memory after a step shows (13 bytes per adapter parameter above the weights; bf16 would be
6 to 8).
"baseline-peft-bnb" is the stock path with prepare_model_for_kbit_training.

Run: python benchmarks/published_a100.py (`make docs` writes the table into the documentation)
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from ftadvise import api

ROWS = Path(__file__).parent / "data" / "memory_measurements.csv"
# acceleration column: (name in the table, our stack)
_PATHS = {
    "none": ("", "transformers-4"),
    "accelerated-peft-bnb": ("", "transformers-4"),
    "baseline-peft-bnb": (", k-bit casts", "transformers-4-kbit"),
}
_FIXED: dict[str, Any] = {
    "compute_dtype": "bf16",
    "adapter_dtype": "fp32",
    "rank": 16,
    "alpha": 16,
    "dropout": 0.1,
    "target_modules": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "gradient_accumulation": 1,
    "seq_len": 4096,
    "packing": True,
    "gradient_checkpointing": True,
    "attention": "flash_attention_2",
    "loss": "full",
}


def table() -> str:
    """The comparison as a Markdown table; GiB, and the error of the estimate in per cent."""
    lines = [
        "| run | allocated, measured | estimated | error | nvidia-smi | estimated | error | interval |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in _rows():
        suffix, stack = _PATHS[row["acceleration"]]
        recipe = {**_FIXED, "method": row["method"], "micro_batch": int(row["micro_batch_size"])}
        memory = api.estimate("mistralai/Mistral-7B-v0.1", gpu="A100-80GB", stack=stack, **recipe).memory
        name = {"full": "full", "lora": "LoRA", "qlora": "QLoRA"}[row["method"]]
        allocated, shown = float(row["peak_mem_gib_norm"]), float(row["peak_mem_nvidia_mib"]) / 1024
        lines.append(
            f"| {name}{suffix}, {row['micro_batch_size']} x 4,096 {_pair(memory.peak_allocated_bytes, allocated)}"
            f" {_pair(memory.device_used_bytes, shown)} | {_gib(memory.low_bytes):.1f} - {_gib(memory.high_bytes):.1f} |"
        )
    return "\n".join(lines) + "\n"


def _rows() -> list[dict[str, str]]:
    with ROWS.open(newline="", encoding="utf-8") as file:
        found = [
            row
            for row in csv.DictReader(file)
            if row["id"].startswith("fms-a100_80gb-24bdadb-")
            and row["model"] == "mistralai/Mistral-7B-v0.1"
            and row["base_dtype"] in ("bf16", "nf4")
            and row["acceleration"] in _PATHS
        ]
    return sorted(found, key=lambda row: (row["method"], list(_PATHS).index(row["acceleration"]), int(row["micro_batch_size"])))


def _pair(estimated_bytes: int, measured_gib: float) -> str:
    estimated = _gib(estimated_bytes)
    return f"| {measured_gib:.2f} | {estimated:.2f} | {100 * (estimated / measured_gib - 1):+.1f} %"


def _gib(num_bytes: int) -> float:
    return num_bytes / 2**30


if __name__ == "__main__":
    print(table())
