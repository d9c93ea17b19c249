"""canifinetune: `canifinetune.estimator.estimate(EstimateRequest(...))`, what its command `estimate` calls.

Given: shape, family and exact parameter count (its `override`), method, precision, NF4 with or without double quantisation, batch, length,
accumulation, rank, alpha, dropout, the nearest of its three target scopes, optimizer, checkpointing, attention kernel, loss backend, GPU
memory (its overhead and safety are shares of the card).

Not expressible: targets outside its scopes (the nearest that contains them is taken), paged 32-bit states (plain AdamW is taken), GPTQ,
AWQ and AQLM ("pre-quantized checkpoints are not qualified"), dtype of adapters; LoRA on families without a target table is refused by the
tool. A fused loss is accepted, and priced like the stock one.

Compared, without the "safety margin" that it reports apart: the sum without "CUDA overhead" (context, fragmentation, workspaces) with
allocated; the sum with it with reserved ("process torch peak reserved, safety margin reported separately" is its stated target) and with
nvidia-smi.
"""

from __future__ import annotations

from typing import Any

from benchmarks.peers.case import ALL_ROLES, ATTENTION_ROLES, Case, ModelShape
from benchmarks.peers.prediction import Prediction, dropped, narrowest, priced_as, require_bitsandbytes, require_known_method

# Its scopes, narrowest first.
_SCOPES = {"conservative": ("q", "v"), "attention": ATTENTION_ROLES, "all_linear": ALL_ROLES}


def predict(case: Case) -> Prediction:
    """The tool's estimate in GiB.

    Raises:
        NoPredictionError: the tool cannot express the run.
        ValueError: the tool itself refuses it.
    """
    from canifinetune.estimator import EstimateRequest, estimate

    memory = estimate(EstimateRequest(**settings(case))).memory
    process_gib = memory.total_estimated_gb - memory.safety_margin_gb
    return Prediction(
        allocated_gib=process_gib - memory.cuda_overhead_gb,
        reserved_gib=process_gib,
        device_gib=process_gib,
        headline_gib=memory.total_estimated_gb,
        remarks=dropped(case, loss=False) + _remarks(case),
    )


def settings(case: Case) -> dict[str, Any]:
    """Keyword arguments of `EstimateRequest`.

    Raises:
        NoPredictionError: a method or quantisation the tool does not know.
    """
    require_known_method(case)
    require_bitsandbytes(case)
    arguments: dict[str, Any] = {
        "model_id": case.model.id,
        "override": override(case.model),
        "use_network": False,
        "local_files_only": True,
        "method": case.method,
        "base_dtype": case.precision,
        "seq_len": case.seq_len,
        "micro_batch_size": case.micro_batch,
        "gradient_accumulation_steps": case.grad_accum,
        "gradient_checkpointing": case.checkpointing,
        "attention_implementation": case.attention,
        "optimizer": "adamw_torch",
        "loss_backend": "liger" if case.fused_loss else "stock",
        "gpu_vram_gb": float(case.card_gib),
    }
    if case.method == "qlora":
        arguments["quantization"] = "nf4_double_quant" if case.double_quant else "nf4"
    if case.method != "full":
        arguments |= {"lora_rank": case.rank, "lora_dropout": case.dropout, "lora_target_scope": narrowest(_SCOPES, case.targets)}
        arguments |= {"lora_alpha": case.alpha} if case.alpha else {}
    return arguments


def override(model: ModelShape) -> dict[str, Any]:
    """The tool's description of a model, which it takes in place of its own table and of the hub."""
    return {
        "family": model.family,
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_kv_heads,
        "intermediate_size": model.intermediate_size,
        "vocab_size": model.vocab_size,
        "tie_word_embeddings": model.tie_word_embeddings,
        "total_params": model.total_params,
        "num_local_experts": model.num_experts,
        "num_experts_per_tok": model.experts_per_token,
    }


def _remarks(case: Case) -> tuple[str, ...]:
    found = [] if case.method == "full" else priced_as(_SCOPES[narrowest(_SCOPES, case.targets)], case.targets)
    if case.fused_loss:
        found.append("fused loss priced by the tool as the stock loss")
    if case.optimizer != "adamw":
        found.append("paged AdamW priced as AdamW")
    return tuple(found)
