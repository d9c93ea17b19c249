"""Parameters of a decoder, counted from its dimensions as transformers builds it.

For L layers of width h with query width q = heads x head_dim, key/value width k = kv_heads x head_dim and MLP width m:

    embeddings   vocab x h, the same again for an untied head, positions x h when learned
    attention    h (q + 2k) + q h, biases
    MLP          3 h m when gated, 2 h m when plain, biases
    norms        vectors of h per layer as the architecture says, query/key norms, one at the end
    experts      router h E, E experts and the shared ones of their own width; the first layers may be dense

Exact, to the last parameter, for the architectures marked `countable` (tests compare with published counts). Vision towers, recurrent and
convolution layers are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ftadvise.profiles.architectures import Architecture
from ftadvise.profiles.model_spec import Experts


@dataclass(frozen=True, slots=True)
class Dimensions:
    """The sizes that the count depends on. `mla`: ranks and head widths of multi-head latent attention, as in config.json."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool
    learned_positions: int = 0
    mlp: str = "gated"
    norm: str = "rmsnorm"
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    experts: Experts | None = None
    mla: dict[str, Any] | None = None
    norms_per_layer: int | None = None
    """Where it differs from the architecture's (parallel attention and MLP share one norm)."""
    has_qk_norm: bool | None = None
    """What config.json says under the architecture's `qk_norm_flag`; None when it says nothing."""


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """Parameters in total, of a token's path (top-k experts only), and in all routed experts."""

    total: int
    active: int
    experts: int


def count_parameters(sizes: Dimensions, architecture: Architecture) -> ParameterCount:
    """The parameter count of a model with these sizes built the way of this architecture; see the module's docstring."""
    h, layers, experts = sizes.hidden_size, sizes.num_layers, sizes.experts
    norm_vectors = architecture.norm_parameters
    if norm_vectors is None:
        norm_vectors = 2 if sizes.norm == "layernorm" else 1

    embeddings = sizes.vocab_size * h * (1 if sizes.tie_word_embeddings else 2) + sizes.learned_positions * h
    if architecture.head_bias:
        embeddings += sizes.vocab_size
    norms_per_layer = architecture.norms_per_layer if sizes.norms_per_layer is None else sizes.norms_per_layer
    norms = norm_vectors * h * (norms_per_layer * layers + architecture.final_norm + architecture.embedding_norm)
    attention = _attention(sizes) + _query_key_norms(sizes, architecture) + architecture.extra_parameters_per_layer
    if architecture.attention_sinks:
        attention += sizes.num_attention_heads

    dense_layers = layers if experts is None else experts.first_dense_layers
    dense_mlp = _mlp(h, sizes.intermediate_size, sizes.mlp, sizes.mlp_bias)
    total = embeddings + norms + layers * attention + dense_layers * dense_mlp
    if experts is None:
        return ParameterCount(total, total, 0)

    one_expert = _mlp(h, experts.intermediate_size, sizes.mlp, architecture.expert_bias)
    router = h * experts.num_experts + (experts.num_experts if architecture.router_bias else 0)
    shared_width = experts.shared_intermediate_size or experts.num_shared_experts * experts.intermediate_size
    shared = _mlp(h, shared_width, sizes.mlp, sizes.mlp_bias) + (h if architecture.shared_expert_gate else 0) if shared_width else 0
    moe_layers = layers - dense_layers
    total += moe_layers * (router + shared + experts.num_experts * one_expert)
    all_experts = moe_layers * experts.num_experts * one_expert
    idle = moe_layers * (experts.num_experts - experts.experts_per_token) * one_expert
    return ParameterCount(total, total - idle, all_experts)


def _mlp(h: int, width: int, mlp: str, bias: bool) -> int:
    inputs = 2 if mlp == "gated" else 1
    return (inputs + 1) * h * width + (inputs * width + h if bias else 0)


def _attention(sizes: Dimensions) -> int:
    if sizes.mla:
        return _latent_attention(sizes, sizes.mla)
    h, q, kv = sizes.hidden_size, sizes.num_attention_heads * sizes.head_dim, sizes.num_kv_heads * sizes.head_dim
    return h * (q + 2 * kv) + q * h + (q + 2 * kv if sizes.qkv_bias else 0) + (h if sizes.o_bias else 0)


def _latent_attention(sizes: Dimensions, mla: dict[str, Any]) -> int:
    """Multi-head latent attention: low-rank query (optional) and key/value projections, each with a norm on the latent (DeepSeek-V2)."""
    h, heads = sizes.hidden_size, sizes.num_attention_heads
    nope, rope, value = mla["qk_nope_head_dim"], mla["qk_rope_head_dim"], mla["v_head_dim"]
    query_rank, kv_rank = mla.get("q_lora_rank"), mla["kv_lora_rank"]
    query_width = heads * (nope + rope)
    query = h * query_rank + query_rank + query_rank * query_width if query_rank else h * query_width
    return int(query + h * (kv_rank + rope) + kv_rank + kv_rank * heads * (nope + value) + heads * value * h)


def _query_key_norms(sizes: Dimensions, architecture: Architecture) -> int:
    if not (sizes.has_qk_norm if architecture.qk_norm_flag else True):
        return 0
    all_heads = sizes.num_attention_heads + sizes.num_kv_heads
    return {"none": 0, "head": 2, "per_head": all_heads, "width": all_heads}[architecture.qk_norm] * sizes.head_dim
