"""The model of a row as the tools want it, from ftadvise's model cards (read without the network)."""

from __future__ import annotations

import functools

from benchmarks.peers.case import ModelShape
from ftadvise.profiles.resolve_model import resolve_model

# Quantised checkpoints: same shape as the model they were made from.
_MADE_FROM = {
    "Qwen/Qwen-1_8B-Chat-Int4": "Qwen/Qwen-1_8B-Chat",
    "Qwen/Qwen-7B-Chat-Int4": "Qwen/Qwen-7B-Chat",
    "TheBloke/Mistral-7B-v0.1-GPTQ": "mistralai/Mistral-7B-v0.1",
    "TheBloke/Mixtral-8x7B-Instruct-v0.1-GPTQ": "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "qwen1half-7b-chat-awq": "Qwen/Qwen1.5-7B-Chat",
    "llama2-7b-aqlm-2bit-1x16": "meta-llama/Llama-2-7b-hf",
}


@functools.cache
def shape_of(model: str) -> ModelShape:
    """The shape of a model named in memory_measurements.csv.

    Raises:
        InputError: no card knows it.
    """
    spec = resolve_model(_MADE_FROM.get(model, model), offline=True)
    experts = spec.experts
    return ModelShape(
        id=spec.id,
        family=spec.model_type,
        hidden_size=spec.hidden_size,
        num_layers=spec.num_layers,
        num_attention_heads=spec.num_attention_heads,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        intermediate_size=experts.intermediate_size if experts else spec.intermediate_size,
        vocab_size=spec.vocab_size,
        tie_word_embeddings=spec.tie_word_embeddings,
        total_params=spec.total_params,
        max_position=spec.max_position or 0,
        num_experts=experts.num_experts if experts else 1,
        experts_per_token=experts.experts_per_token if experts else 1,
    )
