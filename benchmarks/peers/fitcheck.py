"""fitcheck-llm: `fitcheck.fetch_model_config` and `fitcheck.estimate`.

Given: config.json fields and parameter count (through its own reader, which refuses mixtures of experts and models whose count differs from
its formula by more than 2 %), precision, NF4 with or without double quantisation, optimizer and dtype of its states, batch, length, rank,
targets by name, checkpointing, flash attention, accumulation, GPU. Its two network look-ups are answered from our model cards; Qwen v1 is
given its effective MLP width (with the doubled one of its config.json the tool would refuse the model).

Not expressible: other quantisation than NF4 and LLM.int8, fused loss, head adapters, autocast (adapters are always priced in fp32),
dropout, paged states. SDPA counts as flash-like, as the tool's own measurements do.

Compared: total without overhead with allocated; total without the CUDA context with reserved; total ("process": reserved plus context in
its calibration) with nvidia-smi.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.peers.case import Case, ModelShape, NoPredictionError
from benchmarks.peers.prediction import Prediction, dropped, require_bitsandbytes, require_known_method

_GPU_KEYS = {"L40S": "l40s", "4090": "4090", "A10G": "a10", "40GB": "a100-40", "80G": "a100-80"}
_MIB_PER_GIB = 1024


def predict(case: Case) -> Prediction:
    """The tool's estimate in GiB.

    Raises:
        NoPredictionError: the tool cannot express the run, or refuses the model.
    """
    from fitcheck import TrainingConfig, estimate, get_gpu
    from fitcheck.overhead_db import get_overhead_profile

    arguments = settings(case)
    gpu_key = gpu_name(case.card)
    report = estimate(_model_config(case.model), TrainingConfig(**arguments), get_gpu(gpu_key))
    context_mib = get_overhead_profile(gpu_key, arguments["flash_attn"], arguments["quantization"]).base_context_mib
    return Prediction(
        allocated_gib=(report.total_mib - report.overhead_mib) / _MIB_PER_GIB,
        reserved_gib=(report.total_mib - context_mib) / _MIB_PER_GIB,
        device_gib=report.total_mib / _MIB_PER_GIB,
        headline_gib=report.total_mib / _MIB_PER_GIB,
        remarks=dropped(case) + _remarks(case),
    )


def settings(case: Case) -> dict[str, Any]:
    """Arguments of `fitcheck.TrainingConfig`.

    Raises:
        NoPredictionError: a method or quantisation the tool does not know.
    """
    require_known_method(case)
    require_bitsandbytes(case)
    full = case.method == "full"
    arguments: dict[str, Any] = {
        "precision": case.precision,
        "quantization": case.quantization,
        "double_quant": case.double_quant,
        "optimizer": "adamw",
        # torch keeps AdamW's states in the dtype of what it trains
        "optimizer_dtype": "bf16" if (case.precision if full else case.adapter_dtype) != "fp32" else "fp32",
        "batch_size": case.micro_batch,
        "seq_len": case.seq_len,
        "grad_checkpoint": case.checkpointing,
        "flash_attn": case.attention != "eager",
        "grad_accum_steps": case.grad_accum,
        "lora_rank": None if full else case.rank,
    }
    if not full:
        arguments["lora_targets"] = [f"{role}_proj" for role in case.targets if role != "head"]
    return arguments


def config_json(model: ModelShape) -> dict[str, Any]:
    """config.json with the fields that the tool reads, under their transformers names."""
    config = {
        "model_type": model.family,
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.head_dim,
        "intermediate_size": model.intermediate_size,
        "vocab_size": model.vocab_size,
        "tie_word_embeddings": model.tie_word_embeddings,
    }
    return {**config, "num_local_experts": model.num_experts} if model.num_experts > 1 else config


def gpu_name(card: str) -> str:
    """The card's key in the tool's table."""
    return next(key for part, key in _GPU_KEYS.items() if part in card)


def _model_config(model: ModelShape) -> Any:
    """The model through the tool's own reader and its refusals; only the two look-ups on the hub are answered here."""
    from unittest import mock

    from fitcheck import UnsupportedModelError, config_parser

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config_json(model)), encoding="utf-8")
        with (
            mock.patch.object(config_parser, "hf_hub_download", return_value=str(path)),
            mock.patch.object(config_parser, "_reported_param_count", return_value=model.total_params),
        ):
            try:
                return config_parser.fetch_model_config(model.id)
            except UnsupportedModelError as error:
                raise NoPredictionError(f"the tool refuses the model: {str(error).split('. ')[0]}") from error


def _remarks(case: Case) -> tuple[str, ...]:
    return ("c_attn priced as separate q, k, v",) if case.model.family == "qwen" and case.method != "full" else ()
