"""fitscout: `fitscout.memory.estimator.estimate_memory`, the function behind its `recommend` (which chooses the settings itself).

Given: shape and exact parameter count (`ModelProfile`, public), method, batch, length, checkpointing, 8-bit optimizer or not, rank, width
of gradients.

Not expressible: targets (always q and v), attention kernel (the quadratic scores are always counted without checkpointing), dtype of
adapters, other quantisation than 4 bit of its "qlora", double quantisation, fused loss, experts beyond the parameter count, the card.

Compared: total without its fixed overhead ("CUDA context headroom") with allocated and with reserved (the cache is left to a margin of 20 %
that is no part of the estimate); total with nvidia-smi.
"""

from __future__ import annotations

from typing import Any

from benchmarks.peers.case import Case, ModelShape
from benchmarks.peers.prediction import Prediction, dropped, priced_as, require_bitsandbytes, require_known_method


def predict(case: Case) -> Prediction:
    """The tool's estimate in GiB.

    Raises:
        NoPredictionError: the tool cannot express the run.
    """
    from fitscout import ModelProfile
    from fitscout.memory.estimator import estimate_memory

    arguments = settings(case)
    found = estimate_memory(ModelProfile(**profile(case.model, case.precision)), **arguments)
    tensors_gib = found.total_gb - found.overhead_gb
    return Prediction(
        allocated_gib=tensors_gib,
        reserved_gib=tensors_gib,
        device_gib=found.total_gb,
        headline_gib=found.total_gb,
        remarks=(*dropped(case), *([] if case.method == "full" else priced_as(("q", "v"), case.targets))),
    )


def settings(case: Case) -> dict[str, Any]:
    """Keyword arguments of `estimate_memory`.

    Raises:
        NoPredictionError: a method or quantisation the tool does not know.
    """
    require_known_method(case)
    require_bitsandbytes(case)
    trained_dtype = case.precision if case.method == "full" else case.adapter_dtype
    arguments: dict[str, Any] = {
        "method": case.method,
        "micro_batch": case.micro_batch,
        "seq_len": case.seq_len,
        "grad_ckpt": case.checkpointing,
        "opt_8bit": "8bit" in case.optimizer,
        "grad_dtype_bytes": 4 if trained_dtype == "fp32" else 2,
    }
    return arguments if case.method == "full" else {**arguments, "lora_rank": case.rank}


def profile(model: ModelShape, precision: str) -> dict[str, Any]:
    """Keyword arguments of `ModelProfile`."""
    return {
        "params": model.total_params,
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "num_kv_heads": model.num_kv_heads,
        "intermediate_size": model.intermediate_size,
        "vocab_size": model.vocab_size,
        "tie_word_embeddings": model.tie_word_embeddings,
        "num_experts": model.num_experts,
        "dtype_bytes": 4 if precision == "fp32" else 2,
    }
