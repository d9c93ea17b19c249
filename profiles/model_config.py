"""A transformers config.json becomes a ModelSpec.

Model types name the same size differently: config_values.py lists the names, config_adjustments.py holds what is more than another name.
What a config leaves out comes from architectures.yaml. Everything in the file is taken as hostile: each number is checked for type and
range before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from ftadvise.profiles.architectures import Architecture, architectures
from ftadvise.profiles.config_adjustments import adjusted_sizes
from ftadvise.profiles.config_values import ConfigValues
from ftadvise.profiles.count_parameters import Dimensions, count_parameters
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.model_spec import Confidence, Experts, Mla, ModelSpec

_TEXT_PARTS = ("text_config", "llm_config", "language_config")
_PLAIN = {"sliding_window", "mla"}
"""Special features that do not change the parameter count."""

_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "half": "fp16", "float": "fp32"}

_MARKS = {
    "mla": ("kv_lora_rank",),
    "mamba": ("mamba_d_ssm", "mamba_num_heads", "mamba_n_heads", "mamba_d_state", "ssm_state_size", "hybrid_override_pattern"),
    "short_convolution": ("conv_L_cache",),
    "linear_attention": ("linear_num_value_heads", "linear_attn_config"),
    "sparse_attention": ("index_n_heads",),
    "per_layer_embedding": ("hidden_size_per_layer_input",),
    "shared_kv": ("num_kv_shared_layers",),
    "hyper_connections": ("hc_mult",),
    "mixed_head_widths": ("global_head_dim",),
}
"""Keys whose presence (not null, not 0) shows a feature outside the plain dense decoder."""

_LAYER_TYPES = {
    "mamba": "mamba",
    "linear_attention": "linear_attention",
    "conv": "short_convolution",
    "chunked_attention": "chunked_attention",
    "sliding_attention": "sliding_window",
}

_LETTERS = {"full_attention": "F", "attention": "F", "sliding_attention": "S", "linear_attention": "L", "mamba": "M", "conv": "C"}


def spec_from_config(
    config: Mapping[str, Any],
    *,
    source: str,
    model_id: str | None = None,
    stored_params: int | None = None,
    origin: Literal["config", "gguf", "hub"] = "config",
    local_path: str | None = None,
) -> ModelSpec:
    """The ModelSpec that a transformers config describes.

    Args:
        config: the parsed config.json.
        source: where it came from, named in messages and kept in `sources`.
        model_id: the spec's id; default is `source`.
        stored_params: elements that the checkpoint stores, if known; used where the count by formula is not exact.
        origin: what was read.
        local_path: folder or file with the weights.

    An unknown model_type is planned from its sizes as a LLaMA-like decoder, marked `unknown_architecture`.

    Raises:
        InputError: a size is missing, of the wrong type, out of range, or contradicts another; names source, key and value.
    """
    model_type, shared, known, values = _part(config, source)
    adjusted = adjusted_sizes(model_type, values)

    layers = values.size("num_layers", limit=10_000)
    hidden = values.size("hidden_size", limit=10**6)
    heads = values.size("num_attention_heads", limit=10**5)
    kv_heads = adjusted.get("num_kv_heads") or values.optional_size("num_kv_heads", limit=10**5) or heads
    if heads % kv_heads:
        raise InputError(f"{source}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    vocabulary = values.size("vocab_size", limit=10**8)
    mla = _latent_attention(values)
    head_dim = mla["qk_nope_head_dim"] + mla["qk_rope_head_dim"] if mla else values.optional_size("head_dim", limit=10**5)
    if head_dim is None:
        if hidden % heads:
            raise InputError(f"{source}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}, and head_dim is not given")
        head_dim = hidden // heads

    mlp = adjusted.get("mlp", shared.mlp)
    width = adjusted.get("intermediate_size") or values.optional_size("intermediate_size", limit=10**7)
    if width is None and mlp == "plain":
        width = 4 * hidden  # what transformers assumes for GPT-2, GPT-Neo, GPT-J, Bloom, Falcon
    experts = _experts(values, shared, layers, width)
    if width is None and experts is None:
        raise InputError(f"{source}: intermediate_size is missing")
    tied = values.flag("tie_word_embeddings", default=shared.tied_by_default)
    max_position = values.optional_size("max_position", limit=10**12)
    norm = adjusted.get("norm", shared.norm)
    qkv_bias, o_bias, mlp_bias = _biases(values, shared, adjusted)
    position = adjusted.get("position", shared.position)
    special, window = _special(config, values, shared, known)

    sizes = Dimensions(
        num_layers=layers,
        hidden_size=hidden,
        intermediate_size=width or 0,
        num_attention_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        learned_positions=(max_position or 0) + shared.position_offset if position == "learned" else 0,
        mlp=mlp,
        norm=norm,
        qkv_bias=qkv_bias,
        o_bias=o_bias,
        mlp_bias=mlp_bias,
        experts=experts,
        mla=mla,
        norms_per_layer=adjusted.get("norms_per_layer"),
        has_qk_norm=values.flag(shared.qk_norm_flag, default=False) if shared.qk_norm_flag else None,
    )
    count = count_parameters(sizes, shared)
    exact = shared.countable and set(special) <= _PLAIN
    total, active, confidence = _totals(count.total, count.active, stored_params, exact=exact)
    unconfirmed = [*shared.unconfirmed] if known else ["linear_modules", "mlp", "norm", "position"]
    if not exact and not stored_params:
        unconfirmed.append("total_params")
    return ModelSpec(
        id=model_id or source,
        family=model_type,
        kind="vision_language" if "vision" in special else "seq2seq" if "seq2seq" in special else shared.kind,
        model_type=model_type,
        architecture=_architecture_name(config, shared, known),
        num_layers=layers,
        hidden_size=hidden,
        intermediate_size=width or 0,
        num_attention_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        mlp=mlp,
        norm=norm,
        qkv_bias=qkv_bias,
        o_bias=o_bias,
        mlp_bias=mlp_bias,
        position=position,
        max_position=max_position,
        total_params=total,
        active_params=active,
        sliding_window=window,
        experts=replace(experts, parameters=count.experts) if experts else None,
        mla=Mla(**mla) if mla else None,
        layer_pattern=_layer_pattern(values, layers),
        special=special,
        linear_modules=_with_query_rank(shared.linear_modules, mla),
        attention_modules=_with_query_rank(shared.attention_modules, mla),
        remote_code=bool(config.get("auto_map")) or shared.remote_code,
        checkpoint_dtype=_checkpoint_dtype(config, values),
        confidence=confidence,
        unconfirmed=tuple(unconfirmed),
        sources=(source,),
        origin=origin,
        local_path=local_path,
    )


def _part(config: Mapping[str, Any], source: str) -> tuple[str, Architecture, bool, ConfigValues]:
    """The language model's part of a config: its type, architecture, whether that is known, and its values."""
    nested = next((config[key] for key in _TEXT_PARTS if isinstance(config.get(key), dict)), None)
    types = [part.get("model_type") for part in (config, nested or {})]
    for model_type in types:
        if model_type is not None and not isinstance(model_type, str):
            raise InputError(f"{source}: model_type is {model_type!r}; it must be text")
    names = [name for name in types if name]
    known = next((name for name in names if name in architectures()), None)
    shared = architectures()[known] if known else replace(architectures()["llama"], countable=False)
    merged = {**config, **(nested or {})}
    if "tie_word_embeddings" in config:  # the outer value decides about the head of the whole model
        merged["tie_word_embeddings"] = config["tie_word_embeddings"]
    # Only a nested part may leave out its sizes: transformers then takes the defaults of the class. At the top they must be there.
    defaults = shared.config_defaults if nested is not None else {key: shared.config_defaults.get(key) for key in ("head_dim",)}
    return known or (names[0] if names else "unknown"), shared, known is not None, ConfigValues(merged, source, defaults)


def _latent_attention(values: ConfigValues) -> dict[str, int] | None:
    rank = values.optional("kv_lora_rank", limit=10**6)
    if rank is None:
        return None
    keys = ("qk_nope_head_dim", "v_head_dim")
    mla = {key: values.required(key, limit=10**5) for key in keys}
    # Zero is allowed: some models have no rotary part.
    mla["qk_rope_head_dim"] = values.optional("qk_rope_head_dim", limit=10**5, least=0) or 0
    return mla | {"kv_lora_rank": rank, "q_lora_rank": values.optional("q_lora_rank", limit=10**6) or 0}


def _with_query_rank(names: tuple[str, ...], mla: dict[str, int] | None) -> tuple[str, ...]:
    """The module names, with one query projection or a low-rank pair as this model's `q_lora_rank` says."""
    if mla is None or not {"q_proj", "q_a_proj"} & set(names):
        return names
    others = tuple(name for name in names if name not in ("q_proj", "q_a_proj", "q_b_proj"))
    return (("q_a_proj", "q_b_proj") if mla["q_lora_rank"] else ("q_proj",)) + others


def _experts(values: ConfigValues, shared: Architecture, layers: int, dense_width: int | None) -> Experts | None:
    number = values.optional_size("num_experts", limit=10**5, least=0)
    if not number or number == 1:
        return None
    width = values.optional_size("moe_intermediate_size", limit=10**7) or dense_width
    if width is None:
        raise InputError(f"{values.source}: moe_intermediate_size is missing")
    active = values.size("experts_per_token", limit=10**5)
    if active > number:
        raise InputError(f"{values.source}: {active} experts per token are more than the {number} experts there are")
    dense = values.optional_size("first_dense_layers", limit=10**4, least=0) or 0
    by_layer, only_dense = values.raw("mlp_layer_types"), values.raw("mlp_only_layers")
    if isinstance(by_layer, list):
        dense = by_layer.count("dense")
    elif isinstance(only_dense, list) and only_dense:
        dense = len(only_dense)
    step = values.optional_size("expert_layer_step", limit=10**4) or 1
    if step > 1:
        dense = layers - layers // step
    shared_experts = values.optional_size("num_shared_experts", limit=10**4, least=0) or 0
    shared_width = values.optional_size("shared_intermediate_size", limit=10**7, least=0)
    return Experts(
        num_experts=number,
        experts_per_token=active,
        intermediate_size=width,
        num_shared_experts=shared_experts or (1 if shared_width else 0),
        shared_intermediate_size=shared_width or shared_experts * width,
        first_dense_layers=min(dense, layers),
        fused_parameters=shared.fused_expert_parameters,
    )


def _biases(values: ConfigValues, shared: Architecture, adjusted: Mapping[str, Any]) -> tuple[bool, bool, bool]:
    """Biases of query/key/value, of the attention output, of the MLP: what config.json says, else the architecture's."""
    everywhere = values.flag("use_bias", default=None)
    attention = values.flag("attention_bias", default=everywhere)
    qkv = values.flag("qkv_bias", default=attention)
    output = values.flag("attention_out_bias", default=attention if shared.o_bias_follows else None)
    mlp = values.flag("mlp_bias", default=everywhere)
    return (
        adjusted.get("qkv_bias", shared.qkv_bias if qkv is None else qkv),
        adjusted.get("o_bias", shared.o_bias if output is None else output),
        adjusted.get("mlp_bias", shared.mlp_bias if mlp is None else mlp),
    )


def _special(config: Mapping[str, Any], values: ConfigValues, shared: Architecture, known: bool) -> tuple[tuple[str, ...], int | None]:
    """The words for ModelSpec.special, and the sliding window."""
    words = [] if known else ["unknown_architecture"]
    layer_types = values.raw("layer_types")
    kinds = {str(kind) for kind in layer_types} if isinstance(layer_types, list) else set()
    marks = {word for word, keys in _MARKS.items() if any(values.raw(key) for key in keys)}
    if kinds:  # the list of layers knows better: a hybrid class may be used with attention layers only
        marks -= set(_LAYER_TYPES.values()) - {_LAYER_TYPES[kind] for kind in kinds if kind in _LAYER_TYPES}
        marks |= {_LAYER_TYPES[kind] for kind in kinds if kind in _LAYER_TYPES}
    window = values.optional("sliding_window", limit=10**9, least=0) or None
    if values.flag("use_sliding_window", default=True) is False or (kinds and "sliding_attention" not in kinds):
        window = None
    marks.discard("sliding_window")
    words += sorted(marks)
    if window:
        words.append("sliding_window")
    if values.raw("word_embed_proj_dim") not in (None, values.raw("hidden_size")):
        words.append("projected_embedding")
    if shared.kind == "vision_language" or isinstance(config.get("vision_config"), dict):
        words.append("vision")
    if shared.kind in ("seq2seq", "encoder"):
        words.append(shared.kind)
    elif config.get("is_encoder_decoder") is True:
        words.append("seq2seq")
    return tuple(words), window


def _layer_pattern(values: ConfigValues, layers: int) -> str:
    """One letter per layer, from `layer_types`, when it names every layer with a type that has a letter."""
    kinds = values.raw("layer_types")
    if not isinstance(kinds, list) or len(kinds) != layers:
        return ""
    letters = [_LETTERS.get(str(kind), "") for kind in kinds]
    return "".join(letters) if all(letters) else ""


def _totals(counted: int, active: int, stored: int | None, *, exact: bool) -> tuple[int, int, Confidence]:
    if exact:
        return counted, active, "high"
    if stored:
        return stored, max(1, stored - (counted - active)), "medium"
    return counted, active, "low"


def _architecture_name(config: Mapping[str, Any], shared: Architecture, known: bool) -> str:
    names = config.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str):
        return names[0]
    return shared.architecture if known else "unknown"


def _checkpoint_dtype(config: Mapping[str, Any], values: ConfigValues) -> str:
    quantization = config.get("quantization_config")
    if isinstance(quantization, dict) and isinstance(quantization.get("quant_method"), str):
        return str(quantization["quant_method"])[:40]
    name = values.raw("torch_dtype") or values.raw("dtype")
    return _DTYPES.get(str(name).removeprefix("torch."), "bf16")
