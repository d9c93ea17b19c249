"""What all models of one transformers `model_type` share: module names, norms, biases. Data: architectures.yaml."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ftadvise.profiles.model_spec import ModelKind
from ftadvise.profiles.yaml_store import load_yaml

ARCHITECTURES_FILE = Path(__file__).parent / "architectures.yaml"


@dataclass(frozen=True, slots=True)
class Architecture:
    """One model_type. The fields up to `unconfirmed` are inherited by model cards; the rest serves config files and parameter counts.

    The counting fields describe what transformers builds: they are confirmed by the published parameter counts (see tests).
    """

    architecture: str
    linear_modules: tuple[str, ...]
    """All linear layers of the language model but the head and routers."""
    attention_modules: tuple[str, ...]
    """The query, key, value and output projections, or the fused ones, among them."""
    kind: ModelKind = "causal_lm"
    remote_code: bool = False
    mlp: Literal["gated", "plain"] = "gated"
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    position: str = "rope"
    sdpa: bool = True
    """transformers can run the type with PyTorch's scaled dot-product attention; else only with its own (eager)."""
    fused_expert_parameters: tuple[str, ...] = ()
    """Names of the 3-D expert parameters of transformers >= 5, which "all-linear" LoRA does not reach."""
    vision_linear_modules: tuple[str, ...] = ()
    peft_default_targets: tuple[str, ...] | str | None = None
    """PEFT's built-in LoRA targets for the type; a string is a regular expression; None when PEFT has no default."""
    linear_modules_source: str | None = None
    unconfirmed: tuple[str, ...] = ()
    tied_by_default: bool = False
    """What transformers assumes when config.json does not say `tie_word_embeddings`."""
    config_defaults: dict[str, int] = field(default_factory=dict)
    """What transformers assumes for sizes that config.json leaves out (nested text_config of vision models, head widths)."""
    gguf_name: str | None = None
    """`general.architecture` in GGUF files of this type."""
    countable: bool = False
    """The parameter formula is exact for plain models of this type."""
    norms_per_layer: int = 2
    norm_parameters: Literal[0, 1, 2] | None = None
    """Vectors per norm: none, weight, weight and bias. Not stated: 1 for rmsnorm, 2 for layernorm."""
    final_norm: bool = True
    embedding_norm: bool = False
    qk_norm: Literal["none", "head", "per_head", "width"] = "none"
    """Query and key norms over one head's width (shared by the heads), one per head, or over all heads together."""
    qk_norm_flag: str | None = None
    """The key of config.json that turns the query and key norms on; None when they are always there."""
    o_bias_follows: bool = True
    """`attention_bias` in config.json means the output projection too."""
    attention_sinks: bool = False
    """One learned logit per head."""
    head_bias: bool = False
    position_offset: int = 0
    """Rows that a learned position table has beyond max_position."""
    extra_parameters_per_layer: int = 0
    router_bias: bool = False
    shared_expert_gate: bool = False
    expert_bias: bool = False


@functools.cache
def architectures() -> dict[str, Architecture]:
    """Every known architecture by model_type.

    Raises:
        InputError: the installed architectures.yaml is broken.
    """
    return {model_type: _architecture(entry) for model_type, entry in load_yaml(ARCHITECTURES_FILE).items()}


def _architecture(entry: dict[str, Any]) -> Architecture:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return Architecture(**fields)
