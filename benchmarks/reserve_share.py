"""How much the CUDA caching allocator holds beyond the tensors, from published runs. Feeds `reserve` of estimator/allocator.yaml.

Rows: fms-acceleration's Mistral-7B runs on an A100-80GB (data/README.md), which state both torch's peak allocated and nvidia-smi of the
same run. For each,

    share = (nvidia-smi - CUDA context - peak allocated) / (peak allocated - static)

with the context of allocator.yaml and our own static terms at the peak: weights, constants, adapters and optimizer state, and for full
fine-tuning, which peaks in the optimizer step, the gradients. GPTQ bases and Mixtral are left out (no static terms for them), and so are
runs within 4 GiB of the card's memory: there the allocator gives its cache back.

Run: python benchmarks/reserve_share.py
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from ftadvise.estimator.device_memory import context_bytes
from ftadvise.estimator.layout import layout_of
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.static_memory import static_memory
from ftadvise.profiles.resolve_model import resolve_model

ROWS = Path(__file__).parent / "data" / "memory_measurements.csv"
CARD_MIB = 81920
NEAR_FULL_MIB = 4096
RECIPES = {
    "full": Recipe(method="full"),
    "lora": Recipe(rank=16, target_modules=("q_proj", "k_proj", "v_proj", "o_proj")),
    "qlora": Recipe(rank=16, target_modules=("q_proj", "k_proj", "v_proj", "o_proj"), quantization="nf4", double_quantization=True),
}


def static_bytes(method: str) -> int:
    """What is held at the peak of one of these runs besides activations, loss and workspace."""
    terms = static_memory(layout_of(resolve_model("mistralai/Mistral-7B-v0.1")), RECIPES[method], device="cuda")
    held = terms.weights + terms.quantization_constants + terms.adapters + terms.optimizer_state
    return held + (terms.gradients if method == "full" else 0)


def shares(*, packed: bool) -> list[tuple[str, float]]:
    """(row id, share) of every row that states what is needed."""
    found = []
    with ROWS.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            ours = row["id"].startswith("fms-") and row["model"] == "mistralai/Mistral-7B-v0.1" and row["base_dtype"] != "int4 (GPTQ)"
            if not ours or not row["peak_mem_nvidia_mib"] or (row["seq_len_kind"] == "packed") != packed:
                continue
            shown_mib = float(row["peak_mem_nvidia_mib"])
            if shown_mib > CARD_MIB - NEAR_FULL_MIB:
                continue
            allocated = float(row["peak_mem_gib_norm"]) * 2**30
            beyond = shown_mib * 2**20 - context_bytes() - allocated
            found.append((row["id"], beyond / (allocated - static_bytes(row["method"]))))
    return found


def main() -> None:
    """Print every share, and n, p05, median and p95 of both kinds of batches."""
    for packed in (True, False):
        rows = shares(packed=packed)
        for name, share in rows:
            print(f"{name:42s} {share:6.3f}")
        low, middle, high = np.percentile([share for _, share in rows], [5, 50, 95])
        kind = "packed to one length" if packed else "unpacked, lengths vary"
        print(f"{kind}: n {len(rows)}, p05 {low:.3f}, median {middle:.3f}, p95 {high:.3f}\n")


if __name__ == "__main__":
    main()
