"""What a step's time is made of, for a few recipes of one model on one card: the example of docs/speed_model.md.

Run: python -m benchmarks.shares_of_a_step
"""

from __future__ import annotations

from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.speed.calibrated import without_calibration
from ftadvise.estimator.stack import stack_of
from ftadvise.estimator.throughput import estimate_throughput
from ftadvise.profiles.probe import named_hardware
from ftadvise.profiles.resolve_model import resolve_model

MODEL, GPU = "meta-llama/Llama-2-7b-hf", "A100 SXM4 80GB"
_LORA = Recipe(gradient_accumulation=4, adapter_dtype="bf16")
_QLORA = _LORA.replace(quantization="nf4")
_LARGE, _SMALL = {"micro_batch": 8, "seq_len": 2048}, {"micro_batch": 1, "seq_len": 256}
CASES = {
    "LoRA, 8 x 2,048": _LORA.replace(**_LARGE),
    "the same without checkpointing": _LORA.replace(**_LARGE, gradient_checkpointing=False),
    "QLoRA, 8 x 2,048": _QLORA.replace(**_LARGE),
    "full fine-tuning, 8 x 2,048": _LORA.replace(**_LARGE, method="full"),
    "LoRA, 1 x 256": _LORA.replace(**_SMALL),
    "QLoRA, 1 x 256": _QLORA.replace(**_SMALL),
}
_COLUMNS = {
    "products": ("matmul",),
    "adapters": ("adapters",),
    "attention": ("attention",),
    "element-wise": ("elementwise",),
    "loss": ("loss",),
    "expanding": ("dequantization",),
    "launches": ("launch",),
    "update": ("optimizer", "communication"),
}


def table() -> str:
    """One line for each recipe: speed, utilisation, and the share of each class of work."""
    lines = [f"| recipe | tokens/s | MFU | {' | '.join(_COLUMNS)} |", "|---|--:|--:|" + "--:|" * len(_COLUMNS)]
    for name, recipe in CASES.items():
        with without_calibration():
            found = estimate_throughput(resolve_model(MODEL), named_hardware(GPU), recipe, stack_of())
        if found is None or found.mfu is None:
            raise ValueError(f"{GPU} has no rate for {name}")
        shares = (sum(found.shares.get(each, 0.0) for each in classes) for classes in _COLUMNS.values())
        cells = " | ".join(f"{100 * share:.0f} %" if share >= 0.005 else "" for share in shares)
        lines.append(f"| {name} | {found.tokens_per_second:,.0f} | {100 * found.mfu:.0f} % | {cells} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table())
