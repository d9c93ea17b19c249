"""What some model types mean by their config.json beyond another name for the same size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ftadvise.profiles.config_values import ConfigValues
from ftadvise.profiles.errors import InputError


def adjusted_sizes(model_type: str, values: ConfigValues) -> dict[str, Any]:
    """The sizes and switches, by our names, that this type's config states in its own way; they go before everything else.

    Raises:
        InputError: a value is of the wrong type or out of range.
    """
    adjust = _ADJUST.get(model_type)
    return adjust(values) if adjust else {}


def _qwen(values: ConfigValues) -> dict[str, Any]:
    """Qwen v1 states the width of both gated projections together."""
    width = values.size("intermediate_size", limit=10**7)
    if width % 2:
        raise InputError(f"{values.source}: intermediate_size {width} is odd; Qwen's config states twice the width of one projection")
    return {"intermediate_size": width // 2}


def _chatglm(values: ConfigValues) -> dict[str, Any]:
    """Grouped heads only with `multi_query_attention`; the first generation is a plain biased decoder."""
    adjusted: dict[str, Any] = {}
    if values.flag("multi_query_attention", default=False):
        adjusted["num_kv_heads"] = values.required("multi_query_group_num", limit=10**5)
    if values.raw("inner_hidden_size") is not None:
        adjusted |= {"mlp": "plain", "norm": "layernorm", "qkv_bias": True, "o_bias": True, "mlp_bias": True}
    elif values.flag("add_qkv_bias", default=None) is not None:
        adjusted["qkv_bias"] = values.flag("add_qkv_bias", default=True)
    return adjusted


def _falcon(values: ConfigValues) -> dict[str, Any]:
    """Number of key/value heads and norms as FalconAttention and FalconDecoderLayer choose them."""
    new = values.flag("new_decoder_architecture", default=False)
    heads = values.size("num_attention_heads", limit=10**5)
    if new:
        adjusted: dict[str, Any] = {"num_kv_heads": values.optional_size("num_kv_heads", limit=10**5) or heads}
        adjusted["norms_per_layer"] = values.optional("num_ln_in_parallel_attn", limit=2) or 2
    else:
        adjusted = {"num_kv_heads": 1 if values.flag("multi_query", default=True) else heads}
        adjusted["norms_per_layer"] = 1 if values.flag("parallel_attn", default=True) else 2
    bias = values.flag("bias", default=False)
    adjusted |= {"qkv_bias": bias, "o_bias": bias, "mlp_bias": bias}
    if values.flag("alibi", default=False):
        adjusted["position"] = "alibi"
    return adjusted


def _gpt_bigcode(values: ConfigValues) -> dict[str, Any]:
    return {"num_kv_heads": 1} if values.flag("multi_query", default=True) else {}


def _stablelm(values: ConfigValues) -> dict[str, Any]:
    adjusted: dict[str, Any] = {"qkv_bias": values.flag("use_qkv_bias", default=False)}
    if values.flag("use_parallel_residual", default=False):
        adjusted["norms_per_layer"] = 1
    return adjusted


def _internlm(values: ConfigValues) -> dict[str, Any]:
    bias = values.flag("bias", default=True)
    return {"qkv_bias": bias, "o_bias": bias}


_ADJUST: dict[str, Callable[[ConfigValues], dict[str, Any]]] = {
    "qwen": _qwen,
    "chatglm": _chatglm,
    "falcon": _falcon,
    "gpt_bigcode": _gpt_bigcode,
    "stablelm": _stablelm,
    "internlm": _internlm,
}
