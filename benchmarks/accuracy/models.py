"""The model of a published run: a card of ours, or one of the few in models.yaml that have none."""

from __future__ import annotations

import functools
from pathlib import Path

from ftadvise.profiles.model_spec import ModelSpec
from ftadvise.profiles.resolve_model import resolve_model
from ftadvise.profiles.yaml_store import load_yaml

_VOCABULARY = 50_368
_POSITIONS = 2048


@functools.cache
def model_of(name: str) -> ModelSpec:
    """The model called `name`.

    Raises:
        InputError: neither a card nor models.yaml has it.
    """
    sizes = load_yaml(Path(__file__).with_name("models.yaml")).get(name)
    return _mpt(name, **sizes) if sizes else resolve_model(name, offline=True)


def parameters(layers: int, width: int, positions: int) -> int:
    """Parameters of an MPT model: twelve width squared a layer, biases and two norms of it, embedding (tied), positions, the last norm."""
    return layers * (12 * width * width + 13 * width) + (_VOCABULARY + positions + 2) * width


def _mpt(name: str, *, layers: int, width: int, heads: int) -> ModelSpec:
    """MPT as OPT: the same layer (norm, attention, norm, plain MLP, learned positions), with separate q, k, v and dropout."""
    total = parameters(layers, width, _POSITIONS)
    return ModelSpec(
        id=name,
        family="mpt",
        kind="causal_lm",
        model_type="opt",
        architecture="OPTForCausalLM",
        num_layers=layers,
        hidden_size=width,
        intermediate_size=4 * width,
        num_attention_heads=heads,
        num_kv_heads=heads,
        head_dim=width // heads,
        vocab_size=_VOCABULARY,
        tie_word_embeddings=True,
        mlp="plain",
        norm="layernorm",
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        position="learned",
        max_position=_POSITIONS,
        total_params=total,
        active_params=total,
        linear_modules=("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
        attention_modules=("q_proj", "k_proj", "v_proj", "out_proj"),
    )
