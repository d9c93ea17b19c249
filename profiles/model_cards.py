"""The packaged model cards, and how a card becomes a ModelSpec."""

from __future__ import annotations

import functools
from dataclasses import fields
from pathlib import Path
from typing import Any

from ftadvise.profiles.architectures import Architecture, architectures
from ftadvise.profiles.model_spec import Experts, Mla, ModelSpec
from ftadvise.profiles.yaml_store import load_yaml_folder

CARDS_FOLDER = Path(__file__).parent / "models"

_SIZES = (
    "num_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_kv_heads",
    "head_dim",
    "vocab_size",
    "tie_word_embeddings",
    "mlp",
    "norm",
    "qkv_bias",
    "o_bias",
    "mlp_bias",
    "position",
    "max_position",
    "sliding_window",
    "experts",
    "mla",
    "mamba",
    "conv",
    "linear_attention",
    "sparse_attention",
    "per_layer_embedding",
    "layer_types",
    "layer_pattern",
    "vision",
)
"""What `unconfirmed: ["*"]` stands for: every size, of those that the card has."""

_SPECIAL = {
    "mla": "mla",
    "mamba": "mamba",
    "conv": "short_convolution",
    "linear_attention": "linear_attention",
    "sparse_attention": "sparse_attention",
    "per_layer_embedding": "per_layer_embedding",
    "sliding_window": "sliding_window",
    "global_head_dim": "mixed_head_widths",
    "num_kv_shared_layers": "shared_kv",
    "residual_streams": "hyper_connections",
}
"""Keys of a card whose presence takes the model out of the plain dense decoders, and the word for it in ModelSpec.special."""


@functools.cache
def all_cards() -> tuple[dict[str, Any], ...]:
    """Every packaged card as it stands in the YAML files (schema: card_schema.Card), in file order. Treat them as read-only.

    Raises:
        InputError: a packaged file is broken.
    """
    files = load_yaml_folder(CARDS_FOLDER)
    return tuple(card for name, cards in files.items() if not name.startswith("_") for card in cards)


def source_legend() -> dict[str, str]:
    """What the short source names in the cards stand for."""
    legend: dict[str, str] = load_yaml_folder(CARDS_FOLDER)["_sources.yaml"]
    return legend


def card_to_spec(card: dict[str, Any], variant: str | None = None) -> ModelSpec:
    """The ModelSpec of a card, or of one of its variants.

    Args:
        card: one of `all_cards`.
        variant: the variant's hub id; its own licence counts. None: the card's main model.
    """
    shared = architectures()[card["model_type"]]

    def value(key: str) -> Any:
        return card[key] if key in card else getattr(shared, key)

    kind = value("kind")
    of_variant: dict[str, Any] = next((entry for entry in card.get("variants", ()) if entry["id"] == variant), {})
    return ModelSpec(
        id=variant or card["id"],
        family=card["family"],
        kind=kind,
        model_type=card["model_type"],
        architecture=value("architecture"),
        num_layers=card["num_layers"],
        hidden_size=card["hidden_size"],
        intermediate_size=card.get("intermediate_size", 0),
        num_attention_heads=card["num_attention_heads"],
        num_kv_heads=card["num_kv_heads"],
        head_dim=card["head_dim"],
        vocab_size=card["vocab_size"],
        tie_word_embeddings=card["tie_word_embeddings"],
        mlp=value("mlp"),
        norm=value("norm"),
        qkv_bias=value("qkv_bias"),
        o_bias=value("o_bias"),
        mlp_bias=value("mlp_bias"),
        position=value("position"),
        max_position=card.get("max_position"),
        total_params=card["total_params"],
        active_params=card.get("active_params", card["total_params"]),
        sliding_window=card.get("sliding_window"),
        experts=_experts(card, shared),
        mla=_mla(card),
        layer_pattern=card.get("layer_pattern", ""),
        special=_special(card, kind),
        linear_modules=tuple(value("linear_modules")),
        attention_modules=tuple(value("attention_modules")),
        remote_code=value("remote_code"),
        checkpoint_dtype=card.get("checkpoint_dtype", "bf16"),
        license=of_variant.get("license", card.get("license")),
        gated=card.get("gated"),
        confidence=card["confidence"],
        unconfirmed=_unconfirmed(card, shared),
        sources=tuple(card["sources"]),
    )


def _experts(card: dict[str, Any], shared: Architecture) -> Experts | None:
    entry = card.get("experts")
    if entry is None:
        return None
    width, count = entry["intermediate_size"], entry.get("num_shared_experts", 0)
    return Experts(
        num_experts=entry["num_experts"],
        experts_per_token=entry["experts_per_token"],
        intermediate_size=width,
        num_shared_experts=count,
        shared_intermediate_size=entry.get("shared_intermediate_size", count * width),
        first_dense_layers=entry.get("first_dense_layers", 0),
        parameters=entry.get("parameters", 0),
        fused_parameters=tuple(card.get("fused_expert_parameters", shared.fused_expert_parameters)),
    )


def _mla(card: dict[str, Any]) -> Mla | None:
    entry = card.get("mla")
    if not entry or not entry.get("kv_lora_rank"):
        return None
    return Mla(**{field.name: entry.get(field.name) or 0 for field in fields(Mla)})


def _special(card: dict[str, Any], kind: str) -> tuple[str, ...]:
    words = [word for key, word in _SPECIAL.items() if card.get(key)]
    if "chunked_attention" in card.get("layer_types", ()):
        words.append("chunked_attention")
    if "project_in" in card.get("linear_modules", ()):
        words.append("projected_embedding")
    if kind != "causal_lm":
        words.append({"vision_language": "vision"}.get(kind, kind))
    return tuple(words)


def _unconfirmed(card: dict[str, Any], shared: Architecture) -> tuple[str, ...]:
    named: list[str] = card.get("unconfirmed", [])
    if "*" in named:
        named = [key for key in _SIZES if key in card or hasattr(shared, key)]
    inherited = [key for key in shared.unconfirmed if key not in card]
    return tuple(dict.fromkeys([*named, *inherited]))
