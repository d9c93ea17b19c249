"""Published peaks of Mistral-7B on one A100-80GB against our estimate: the table in docs/memory_model.md.

Rows: fms-acceleration (data/README.md), packed to 4,096 tokens, checkpointing, FlashAttention-2, rank 16 on q, k, v, o, full logits. The
adapters are priced in fp32, which is what the memory after a step shows (13 bytes per adapter parameter above the weights; bf16 would be
6 to 8).
"baseline-peft-bnb" is the stock path with prepare_model_for_kbit_training.

Run: python benchmarks/published_a100.py (`make docs` writes the table into the documentation)
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftadvise import api
from ftadvise.estimator.estimate_types import MemoryEstimate

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


@dataclass(frozen=True)
class Comparison:
    """One published run: bytes of our estimate, and GiB as measured."""

    name: str
    memory: MemoryEstimate
    allocated_gib: float
    device_used_gib: float

    @property
    def errors(self) -> tuple[float, float]:
        """Of allocated and of device used, in per cent of what was measured."""
        allocated, used = _gib(self.memory.peak_allocated_bytes), _gib(self.memory.device_used_bytes)
        return 100 * (allocated / self.allocated_gib - 1), 100 * (used / self.device_used_gib - 1)

    @property
    def inside(self) -> bool:
        """Whether the interval holds what nvidia-smi showed."""
        return self.memory.low_bytes <= self.device_used_gib * 2**30 <= self.memory.high_bytes


def comparisons() -> list[Comparison]:
    """Every published run of the two stacks, by method, stack and batch."""
    found = []
    for row in _rows():
        suffix, stack = _PATHS[row["acceleration"]]
        recipe = {**_FIXED, "method": row["method"], "micro_batch": int(row["micro_batch_size"])}
        memory = api.estimate("mistralai/Mistral-7B-v0.1", gpu="A100-80GB", stack=stack, **recipe).memory
        name = {"full": "full", "lora": "LoRA", "qlora": "QLoRA"}[row["method"]] + f"{suffix}, {row['micro_batch_size']} x 4,096"
        found.append(Comparison(name, memory, float(row["peak_mem_gib_norm"]), float(row["peak_mem_nvidia_mib"]) / 1024))
    return found


def table() -> str:
    """The comparison as a Markdown table; GiB, and the error of the estimate in per cent."""
    lines = [
        "| run | allocated, measured | estimated | error | nvidia-smi | estimated | error | interval |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for each in comparisons():
        memory, (error, error_used) = each.memory, each.errors
        allocated = f"{each.allocated_gib:.2f} | {_gib(memory.peak_allocated_bytes):.2f} | {error:+.1f} %"
        used = f"{each.device_used_gib:.2f} | {_gib(memory.device_used_bytes):.2f} | {error_used:+.1f} %"
        lines.append(f"| {each.name} | {allocated} | {used} | {_gib(memory.low_bytes):.1f} - {_gib(memory.high_bytes):.1f} |")
    return "\n".join(lines) + "\n"


def summary() -> str:
    """The same in one bullet for the README."""
    runs = comparisons()
    allocated, used = ([each.errors[kind] for each in runs] for kind in (0, 1))
    inside = sum(each.inside for each in runs)
    return (
        f"- Against {len(runs)} published runs of Mistral-7B on an A100-80GB (LoRA, QLoRA, full fine-tuning) the estimate of peak\n"
        f"  allocated memory is {min(allocated):+.1f} % to {max(allocated):+.1f} % off, that of `nvidia-smi`\n"
        f"  {min(used):+.1f} % to {max(used):+.1f} %; {inside} of {len(runs)} lie inside the predicted interval:\n"
        "  [the table, and where each term comes from](docs/memory_model.md).\n"
    )


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


def _gib(num_bytes: int) -> float:
    return num_bytes / 2**30


if __name__ == "__main__":
    print(table())
