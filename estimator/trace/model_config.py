"""From a ModelSpec to a transformers config: the folder's config.json when there is one, else what the card says. Imports torch late."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

from ftadvise.profiles.errors import InputError
from ftadvise.profiles.json_objects import read_json_object
from ftadvise.profiles.model_spec import ModelSpec

_HINT = "give a local folder with its config.json: --model FOLDER"
PARAMETER_TOLERANCE = 0.001
"""A model built from a card must have the card's parameter count to 1 in 1,000, else memory would be traced of another model."""

# Names under which config classes keep a fact, beside the standard name and the class's own attribute_map.
_SYNONYMS = {
    "hidden_size": ("hidden_size", "d_model", "n_embd"),
    "intermediate_size": ("intermediate_size", "ffn_hidden_size", "ffn_dim", "n_inner", "d_ff", "shared_intermediate_size", "block_ff_dim"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads"),
    "num_key_value_heads": ("num_key_value_heads", "num_kv_heads", "multi_query_group_num", "kv_n_heads"),
    "head_dim": ("head_dim", "kv_channels", "attention_head_dim", "attn_head_dim"),
    "vocab_size": ("vocab_size",),
    "max_position_embeddings": ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length"),
    "attention_bias": ("attention_bias", "qkv_bias", "use_qkv_bias", "add_qkv_bias", "attn_bias"),
    "mlp_bias": ("mlp_bias", "use_mlp_bias"),
    "num_experts": ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
    "num_experts_per_tok": ("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts"),
    "moe_intermediate_size": ("moe_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size"),
    "num_shared_experts": ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"),
    "shared_expert_intermediate_size": ("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size"),
    "first_dense_layers": ("first_k_dense_replace", "moe_layer_start_index", "num_dense_layers"),
}


def config_of(spec: ModelSpec, *, trust_remote_code: bool = False) -> Any:
    """The transformers config of `spec`; code that comes with a model is never run unless trusted.

    Raises:
        InputError: transformers does not know the architecture, the config is broken, or the card is not enough to build the model.
    """
    folder = Path(spec.local_path) if spec.local_path else None
    if folder is not None and (folder / "config.json").is_file():
        return _from_folder(spec, folder, trust_remote_code=trust_remote_code)
    return _from_card(spec)


def _from_folder(spec: ModelSpec, folder: Path, *, trust_remote_code: bool) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    raw = read_json_object(folder / "config.json")
    if raw.get("model_type") not in CONFIG_MAPPING_NAMES and not trust_remote_code:
        raise InputError(
            f"{spec.id}: transformers does not know the architecture {raw.get('model_type')!r}",
            hint="read the code that comes with the model; when you trust it, add --trust-remote-code"
            if "auto_map" in raw
            else "the estimate without --trace needs no architecture code",
        )
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise InputError(f"{folder / 'config.json'}: transformers cannot read it ({_short(error)})") from None


def _from_card(spec: ModelSpec) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if spec.model_type not in CONFIG_MAPPING_NAMES:
        raise InputError(f"{spec.id}: transformers does not know the architecture {spec.model_type!r}", hint=_HINT)
    if spec.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or spec.kind != "causal_lm":
        raise InputError(f"{spec.id}: only causal language models are built from a card, and this is {spec.kind}", hint=_HINT)
    return _card_config(spec)


@functools.lru_cache(maxsize=8)
def _card_config(spec: ModelSpec) -> Any:
    refusal = InputError(f"{spec.id}: its card does not describe it completely enough to build it", hint=_HINT)
    closest = None
    for values in _readings(spec):
        config = _build(spec.model_type, values)
        if config is None:
            continue
        built = _count_parameters(config)
        if built is None:
            continue
        if abs(built - spec.total_params) <= PARAMETER_TOLERANCE * spec.total_params:
            return config
        closest = built if closest is None or abs(built - spec.total_params) < abs(closest - spec.total_params) else closest
    if closest is not None:
        refusal = InputError(
            f"{spec.id}: a model built from its card has {closest:,} parameters, the card says {spec.total_params:,}", hint=_HINT
        )
    raise refusal


def _readings(spec: ModelSpec) -> Any:
    """Keyword values by standard name; the parameter count decides which reading of a card is the right one.

    The plain reading first; then without what classes disagree about (a head width that is hidden / heads, biases that they have anyway).
    """
    values: dict[str, Any] = {
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_attention_heads,
        "num_key_value_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "vocab_size": spec.vocab_size,
        "tie_word_embeddings": spec.tie_word_embeddings,
        "attention_bias": spec.qkv_bias,
        "mlp_bias": spec.mlp_bias,
    }
    if spec.max_position is not None:
        values["max_position_embeddings"] = spec.max_position
    if spec.sliding_window is not None:
        values["sliding_window"] = spec.sliding_window
    experts = spec.experts
    if experts is not None:
        values |= {
            "num_experts": experts.num_experts,
            "num_experts_per_tok": experts.experts_per_token,
            "moe_intermediate_size": experts.intermediate_size,
            "num_shared_experts": experts.num_shared_experts,
            "first_dense_layers": experts.first_dense_layers,
        }
        if experts.shared_intermediate_size:
            values["shared_expert_intermediate_size"] = experts.shared_intermediate_size
    yield values
    biased = {"attention_bias": spec.o_bias or spec.qkv_bias, "use_bias": spec.mlp_bias, "bias": spec.mlp_bias}
    yield values | biased
    without_biases = {key: value for key, value in values.items() if key not in ("attention_bias", "mlp_bias")}
    yield without_biases
    yield {key: value for key, value in without_biases.items() if key not in ("head_dim", "sliding_window")}
    if "mla" in spec.special:
        yield values | {"q_lora_rank": None}  # queries that are not compressed
        yield {key: value for key, value in values.items() if key != "head_dim"} | {"q_lora_rank": None}
    if experts is not None:
        yield values | {"intermediate_size": experts.intermediate_size}
        yield without_biases | {"intermediate_size": experts.intermediate_size}


def _build(model_type: str, values: dict[str, Any]) -> Any | None:
    """The config of these values under the names that the class of `model_type` uses, or None when it refuses them."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        default = AutoConfig.for_model(model_type)
    except (ValueError, TypeError, AttributeError, StrictDataclassError):
        return None
    known = set(default.to_dict()) | set(vars(default))
    keywords: dict[str, Any] = {}
    for standard, value in values.items():
        own = getattr(type(default), "attribute_map", {}).get(standard)
        names = (own, *_SYNONYMS.get(standard, (standard,)))
        name = next((name for name in names if name in known), None)
        if name is not None:
            keywords[name] = value
        elif standard in ("head_dim", "q_lora_rank") and not hasattr(
            type(default), standard
        ):  # read by models whose config class does not declare it
            keywords[standard] = value
    keywords |= _special_cases(model_type, values, known)
    vocabulary = values["vocab_size"]
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):  # the class's defaults may lie beyond a smaller vocabulary
        token = getattr(default, name, None)
        if isinstance(token, int) and token >= vocabulary:
            keywords[name] = 0
    try:
        return AutoConfig.for_model(model_type, **keywords)
    except (ValueError, TypeError, AttributeError, ZeroDivisionError, StrictDataclassError):
        return None


def _special_cases(model_type: str, values: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """Facts that some classes state in other words than a number."""
    heads, kv_heads = values["num_attention_heads"], values["num_key_value_heads"]
    special: dict[str, Any] = {}
    if model_type == "falcon":  # one KV head is the "multi query" of the first models, several are the "new decoder architecture"
        special = {"num_kv_heads": kv_heads, "new_decoder_architecture": kv_heads not in (1, heads), "multi_query": kv_heads == 1}
    elif model_type == "gpt_bigcode":
        special = {"multi_query": kv_heads == 1}
    elif model_type == "opt":
        special = {"word_embed_proj_dim": values["hidden_size"]}
    if "rotary_dim" in known and "head_dim" in values:
        special["rotary_dim"] = min(64, values["head_dim"])
    if "expert_ffn_hidden_size" in known and "moe_intermediate_size" in values:
        special["ffn_hidden_size"] = values["intermediate_size"]
    return special


def _count_parameters(config: Any) -> int | None:
    try:
        count: int = sum(parameter.numel() for parameter in skeleton(config).parameters())
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ZeroDivisionError, IndexError, AssertionError):
        return None
    return count


def skeleton(config: Any, *, dtype: Any = None, attention: str = "eager", trust_remote_code: bool = False) -> Any:
    """The model of a config on the meta device: shapes and names, no memory."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with torch.device("meta"), no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention, trust_remote_code=trust_remote_code)
    model.tie_weights()
    return model


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
