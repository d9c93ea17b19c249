"""Checked access to the numbers and switches of a config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, overload

from ftadvise.profiles.errors import InputError

_NAMES = {
    "num_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "decoder_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model", "dim"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"),
    "num_kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv", "n_kv_heads", "num_query_groups"),
    "head_dim": ("head_dim", "kv_channels", "attention_head_dim", "d_kv"),
    "intermediate_size": (
        "intermediate_size",
        "ffn_hidden_size",
        "ff_intermediate_size",
        "ffn_dim",
        "n_inner",
        "inner_hidden_size",
        "d_ff",
        "decoder_ffn_dim",
    ),
    "vocab_size": ("padded_vocab_size", "vocab_size"),
    "max_position": ("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_sequence_length", "model_max_length"),
    "num_experts": ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
    "experts_per_token": ("num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token", "experts_per_token", "top_k_experts"),
    "moe_intermediate_size": ("moe_intermediate_size", "expert_intermediate_size"),
    "num_shared_experts": ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert"),
    "shared_intermediate_size": ("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size"),
    "first_dense_layers": ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"),
    "expert_layer_step": ("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_interval"),
}
"""The names under which model types state one size, the most common one first; it also names the size when none is there."""


class ConfigValues:
    """The values of one config with their checks.

    Args:
        config: the parsed object; sizes of a nested text part already merged in.
        source: named in messages.
        defaults: sizes to assume, by our names, where the config states none.
    """

    def __init__(self, config: Mapping[str, Any], source: str, defaults: Mapping[str, int | None] | None = None) -> None:
        self._config = config
        self.source = source
        self._defaults = defaults or {}

    def raw(self, key: str) -> Any:
        """The unchecked value, None when absent."""
        return self._config.get(key)

    def size(self, name: str, *, limit: int) -> int:
        """A size that must be there, by our name.

        Raises:
            InputError: missing, not a whole number, below 1 or above `limit`.
        """
        value = self.optional_size(name, limit=limit)
        if value is None:
            raise InputError(f"{self.source}: {_NAMES[name][0]} is missing", hint="is this the config.json of a language model?")
        return value

    def optional_size(self, name: str, *, limit: int, least: int = 1) -> int | None:
        """A size by our name; None when neither the config nor the defaults have it. Raises as `size`."""
        for key in _NAMES[name]:
            value = self.optional(key, limit=limit, least=least)
            if value is not None:
                return value
        return self._defaults.get(name)

    def required(self, key: str, *, limit: int) -> int:
        """A size that must be there, by the config's own key. Raises as `size`."""
        value = self.optional(key, limit=limit)
        if value is None:
            raise InputError(f"{self.source}: {key} is missing")
        return value

    def optional(self, key: str, *, limit: int, least: int = 1) -> int | None:
        """A size by the config's own key. A list (one number per layer) counts as its largest number. Raises as `size`."""
        value = self._config.get(key)
        if isinstance(value, list) and value:
            numbers = [self._checked(f"{key}[{index}]", item, limit=limit, least=least) for index, item in enumerate(value)]
            return max(numbers)
        return None if value is None else self._checked(key, value, limit=limit, least=least)

    def _checked(self, key: str, value: Any, *, limit: int, least: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"{self.source}: {key} is {_short(value)}; it must be a whole number")
        if not least <= value <= limit:
            raise InputError(f"{self.source}: {key} is {_short(value)}; it must be between {least} and {limit}")
        return value

    @overload
    def flag(self, key: str, *, default: bool) -> bool: ...
    @overload
    def flag(self, key: str, *, default: bool | None) -> bool | None: ...
    def flag(self, key: str, *, default: bool | None) -> bool | None:
        """A switch; `default` when absent or null.

        Raises:
            InputError: not true or false.
        """
        value = self._config.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise InputError(f"{self.source}: {key} is {_short(value)}; it must be true or false")
        return value


def _short(value: Any) -> str:
    """`value` as shown in a message: one line, at most 60 characters."""
    if isinstance(value, int) and abs(value) >= 10**60:
        return f"a number of {value.bit_length()} bits"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
