"""ms-swift's benchmark page: Qwen-7B-Chat and Qwen-1.8B-Chat on A100-80GB (ids `swift-*`).

Settings, from modelscope/ms-swift (docs/source_en/LLM/Benchmark.md, scripts/benchmark/test_memory_time/run_single.py, SftArguments):

- The Trainer of transformers 4 with bf16 autocast, Qwen's own model code, batch 1 x accumulation 16, AdamW of torch, FlashAttention-2
  unless the row says otherwise. LoRA rank 8, alpha 32, dropout 0.05 on c_attn (q, k, v); "ALL" is every linear layer. NF4 with double
  quantisation.
- cls-fudan-news-zh, long news; samples above `max_length` are deleted, so the longest kept sample is near that limit but not published.
- Metric: `max_memory_reserved`; lengths vary, so what the allocator holds of other lengths is in it.
- `swift-tuner-*`: another data set and version; memory is the sum over the visible devices, whose number the page does not say.
"""

from __future__ import annotations

from benchmarks.accuracy.case import Case, Excluded, Row, flag, peak
from ftadvise.estimator.recipe import Recipe

SOURCE = "ms-swift"
_QKV = ("c_attn",)
_LENGTH = "the longest sample kept: `max_length` is a limit"
_DEVICES = "the number of GPUs whose memory is summed"
_TUNERS = {
    "swift-tuner-adalora": "adalora",
    "swift-tuner-dora": "dora",
    "swift-tuner-adapter": "adapter",
    "swift-tuner-full": "full",
    "swift-tuner-full+no_mix": "full",
}
_TUNERS |= {f"swift-tuner-{name}": "lora" for name in ("lora", "lora+", "rslora", "lora+neftune", "lora+no_mix", "lora+packing")}
_TUNERS |= {"swift-tuner-lora+packing+lazytokenize": "lora"}


def case(row: Row) -> Case | Excluded:
    """The run of one row."""
    base = row["base_dtype"]
    if base not in ("bf16", "nf4"):
        return Excluded(row["id"], SOURCE, f"{base} base: not in the recipe vocabulary")
    tuner = row["id"].startswith("swift-tuner-")
    method = _TUNERS.get(row["id"]) if tuner else row["method"].replace("qlora", "lora")
    if method is None:
        return Excluded(row["id"], SOURCE, "GaLore, LISA or LLaMA-Pro: not in the recipe vocabulary")
    everything = row["target_modules"].startswith("ALL")
    recipe = Recipe(
        method=method,  # type: ignore[arg-type]
        quantization="nf4" if base == "nf4" else "none",
        double_quantization=flag(row["double_quant"]),
        compute_dtype="bf16",
        adapter_dtype="fp32",
        rank=int(row["rank"] or 8),
        alpha=32,
        dropout=0.05,
        target_modules=("all-linear",) if everything else _QKV,
        micro_batch=int(row["micro_batch_size"]),
        gradient_accumulation=int(row["grad_accum"]),
        seq_len=int(row["seq_len"]),
        packing="packing" in row["id"],
        gradient_checkpointing=flag(row["gradient_checkpointing"]),
        attention="flash_attention_2" if row["attention"] == "flash2" else "eager",
        loss="full",
        optimizer="adamw_torch",
    )
    return Case(
        id=row["id"],
        source=SOURCE,
        model=row["model"],
        gpu="A100 SXM4 80GB",
        recipe=recipe,
        stack="ms-swift==2.0" if tuner else "ms-swift==1.5",
        measured=peak(row, "reserved"),
        unknown=(_LENGTH, _DEVICES) if tuner else (_LENGTH,),
    )
