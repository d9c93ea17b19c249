"""ModelSpec: the architecture facts of one model, as the estimator needs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ModelKind = Literal["causal_lm", "vision_language", "seq2seq", "encoder"]
Confidence = Literal["high", "medium", "low"]


@dataclass(frozen=True, slots=True)
class Experts:
    """Mixture-of-experts sizes. Widths are effective (one gate or up projection of one expert)."""

    num_experts: int
    experts_per_token: int
    intermediate_size: int
    num_shared_experts: int = 0
    shared_intermediate_size: int = 0
    first_dense_layers: int = 0
    parameters: int = 0
    """Parameters in all routed experts together (0 = not known)."""
    fused_parameters: tuple[str, ...] = ()
    """Names of the 3-D expert parameters of transformers >= 5, which "all-linear" LoRA does not reach."""


@dataclass(frozen=True, slots=True)
class Mla:
    """Multi-head latent attention: ranks of the compressed projections and widths per head. `q_lora_rank` 0: one full query projection."""

    kv_lora_rank: int
    q_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Facts about one model. Counts are elements, never bytes.

    `intermediate_size` is the *effective* MLP width (Qwen v1's config.json states twice that).
    `head_dim` comes from the card, never from hidden_size / num_attention_heads.
    `special` names features outside the plain dense decoder ("mla", "mamba", "linear_attention", "vision", "per_layer_embedding",
    "sliding_window", "encoder", ...): what the estimator does not model exactly widens its interval.
    `unconfirmed` names fields whose value no opened source showed; they are marked when displayed.
    """

    id: str
    family: str
    kind: ModelKind
    model_type: str
    architecture: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool
    mlp: Literal["gated", "plain"]
    norm: Literal["rmsnorm", "layernorm"]
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    position: str
    max_position: int | None
    total_params: int
    active_params: int
    sliding_window: int | None = None
    experts: Experts | None = None
    mla: Mla | None = None
    layer_pattern: str = ""
    """One letter per layer where layers differ (card_schema.Card.layer_pattern says which); "" when not known or all alike."""
    special: tuple[str, ...] = ()
    linear_modules: tuple[str, ...] = ()
    """Names of all linear layers of the language model but the head and routers ("all-linear")."""
    attention_modules: tuple[str, ...] = ()
    remote_code: bool = False
    checkpoint_dtype: str = "bf16"
    license: str | None = None
    gated: bool | None = None
    confidence: Confidence = "high"
    unconfirmed: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    origin: Literal["card", "config", "gguf", "hub"] = "card"
    local_path: str | None = None
    """Folder or GGUF file with the weights when the model was named by a path."""
