"""ftuneai: `ftuneai.Estimator(...).estimate_memory()`.

Given: shape and exact parameter count (put into its model table, which `Estimator` reads first), method, generic 4 or 8 bit (also for GPTQ
and AWQ), batch, length, checkpointing, optimizer, rank, alpha, the nearest of its three target presets, flash attention (SDPA counts as
such: it stores no scores either). The model's longest length is raised where the run stretched it.

Not expressible: vocabulary and loss (no term for logits), dtype of adapters and states, double quantisation, 2 bit, targets outside its
presets (the nearest that contains them is taken), the card.

Compared: the sum without "CUDA overhead" (20 % for context, fragmentation and workspaces) with allocated; the total with reserved and with
nvidia-smi.
"""

from __future__ import annotations

from typing import Any

from benchmarks.peers.case import ALL_ROLES, ATTENTION_ROLES, Case, NoPredictionError
from benchmarks.peers.prediction import Prediction, dropped, narrowest, priced_as, require_known_method

# Its presets, narrowest first.
_PRESETS = {"attention": ("q", "v"), "attention_all": ATTENTION_ROLES, "all_linear": ALL_ROLES}
_BITS = {"none": "none", "nf4": "4bit", "gptq-int4": "4bit", "awq-int4": "4bit", "gptq-int8": "8bit"}


def predict(case: Case) -> Prediction:
    """The tool's estimate in GiB.

    Raises:
        NoPredictionError: the tool cannot express the run.
    """
    from ftuneai import Estimator, ModelSpec
    from ftuneai.loader import load_models

    arguments = settings(case)
    load_models()[case.model.id] = ModelSpec(**model_entry(case))
    memory = Estimator(**arguments).estimate_memory()
    return Prediction(
        allocated_gib=memory.total_gb - memory.overhead_gb,
        reserved_gib=memory.total_gb,
        device_gib=memory.total_gb,
        headline_gib=memory.total_gb,
        remarks=dropped(case) + _remarks(case),
    )


def settings(case: Case) -> dict[str, Any]:
    """Keyword arguments of `Estimator`.

    Raises:
        NoPredictionError: a method or quantisation the tool does not know.
    """
    require_known_method(case)
    if case.quantization not in _BITS:
        raise NoPredictionError(f"base weights in {case.quantization}: the tool knows 4 and 8 bit")
    arguments: dict[str, Any] = {
        "model": case.model.id,
        "method": case.method,
        "quantization": _BITS[case.quantization],
        "batch_size": case.micro_batch,
        "seq_length": case.seq_len,
        "gradient_checkpointing": case.checkpointing,
        "optimizer": "adamw",
        "flash_attention": case.attention != "eager",
    }
    if case.method != "full":
        arguments |= {"lora_rank": case.rank, "lora_target": narrowest(_PRESETS, case.targets)}
        arguments |= {"lora_alpha": case.alpha} if case.alpha else {}
    return arguments


def model_entry(case: Case) -> dict[str, Any]:
    """Keyword arguments of `ModelSpec`, an entry of the tool's model table."""
    model = case.model
    entry: dict[str, Any] = {
        "name": model.id,
        "parameters": model.total_params,
        "hidden_size": model.hidden_size,
        "num_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_kv_heads": model.num_kv_heads,
        "intermediate_size": model.intermediate_size,
        "vocab_size": model.vocab_size,
        "max_seq_length": max(model.max_position, case.seq_len),
        "default_dtype": {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[case.precision],
    }
    if model.num_experts > 1:
        entry |= {"is_moe": True, "num_experts": model.num_experts, "num_active_experts": model.experts_per_token}
    return entry


def _remarks(case: Case) -> tuple[str, ...]:
    found = [] if case.method == "full" else priced_as(_PRESETS[narrowest(_PRESETS, case.targets)], case.targets)
    if case.quantization not in ("none", "nf4"):
        found.append(f"{case.quantization} priced as {_BITS[case.quantization]}")
    return tuple(found)
