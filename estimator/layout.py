"""Layout: a decoder as its linear layers, layer by layer. Everything else in the estimator is sums over it.

A plain decoder layer has four groups of linear layers, each reading one tensor:

    qkv   reads the normed hidden state (hidden_size)      q, k, v, or one fused projection
    o     reads the attention output (heads x head_dim)
    mlp   reads the normed hidden state                    gate and up, fused, or one input projection
    down  reads the MLP's inner product (intermediate_size)

Exact for dense decoders and for the attention and shared experts of mixture-of-experts models. Models with other mixers (multi-head latent
attention, Mamba, linear attention, per-layer embeddings, vision towers) are approximated by this shape; `Layout.unexplained_share` says how
many of their parameters it does not explain, and the interval widens with it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.architectures import Architecture, architectures
from ftadvise.profiles.errors import InputError, did_you_mean
from ftadvise.profiles.model_spec import ModelSpec

Group = Literal["qkv", "o", "mlp", "down"]

_ATTENTION_OUTPUTS = ("o_proj", "out_proj", "dense", "wo", "c_proj")
_DEFAULT_ARCHITECTURE = Architecture(architecture="", linear_modules=(), attention_modules=())


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear layer of a decoder layer. Widths are features."""

    name: str
    group: Group
    in_features: int
    out_features: int
    bias: bool

    @property
    def weight_elements(self) -> int:
        """Elements of the weight, without the bias."""
        return self.in_features * self.out_features


@dataclass(frozen=True)
class Layout:
    """A model as `num_layers` equal decoder layers, an embedding, a head and small parameters. Counts are elements."""

    spec: ModelSpec
    linears: tuple[Linear, ...]
    query_width: int
    kv_width: int
    has_qk_norm: bool
    norms_per_layer: int
    expert_parameters: int
    """In routed experts, all layers; fused 3-D parameters that no adapter and no quantiser reaches."""

    @functools.cached_property
    def linear_parameters(self) -> int:
        """Weights of all linear layers but the head: what a quantiser replaces."""
        return self.spec.num_layers * sum(linear.weight_elements for linear in self.linears)

    @property
    def head_parameters(self) -> int:
        """The head, when it is not the embedding itself."""
        return 0 if self.spec.tie_word_embeddings else self.spec.vocab_size * self.spec.hidden_size

    @property
    def embedding_parameters(self) -> int:
        """The token embedding."""
        return self.spec.vocab_size * self.spec.hidden_size

    @functools.cached_property
    def small_parameters(self) -> int:
        """Norms, biases, positions and whatever the shape does not explain: the rest of the published count, never negative."""
        explained = self.linear_parameters + self.head_parameters + self.embedding_parameters + self.expert_parameters
        return max(0, self.spec.total_params - explained)

    @functools.cached_property
    def unexplained_share(self) -> float:
        """Share of the published parameters that this layout misses or counts too often; norms and biases stay far below 1 %."""
        explained = self.linear_parameters + self.head_parameters + self.embedding_parameters + self.expert_parameters
        return abs(self.spec.total_params - explained) / max(1, self.spec.total_params)

    def adapted(self, recipe: Recipe) -> tuple[Linear, ...]:
        """The linear layers (of one decoder layer) that get an adapter.

        Raises:
            InputError: a target module does not exist in this model.
        """
        if recipe.method == "full":
            return ()
        names = {linear.name for linear in self.linears}
        if recipe.target_modules == ("all-linear",):
            return self.linears
        for wanted in recipe.target_modules:
            if wanted not in names:
                known = sorted(names)
                raise InputError(
                    f"{self.spec.id} has no linear layer {wanted!r}",
                    hint=did_you_mean(wanted, known) or f"its linear layers: {', '.join(known)}",
                )
        return tuple(linear for linear in self.linears if linear.name in recipe.target_modules)


def layout_of(spec: ModelSpec) -> Layout:
    """The layout of a model; a pure function of the ModelSpec."""
    return _layout_of(_ById(spec))


class _ById:
    """Makes a ModelSpec a cheap cache key: hashing its forty fields would cost more than the estimate itself."""

    __slots__ = ("spec",)

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    def __hash__(self) -> int:
        return hash(self.spec.id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and (self.spec is other.spec or self.spec == other.spec)


@functools.lru_cache(maxsize=256)
def _layout_of(key: _ById) -> Layout:
    spec = key.spec
    architecture = architectures().get(spec.model_type, _DEFAULT_ARCHITECTURE)
    query_width, kv_width = spec.num_attention_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    experts = spec.experts
    width = spec.intermediate_size
    if experts is not None:
        shared = experts.shared_intermediate_size or experts.num_shared_experts * experts.intermediate_size
        dense_share = experts.first_dense_layers / spec.num_layers
        width = round(dense_share * spec.intermediate_size + (1 - dense_share) * shared)
    linears = (*_attention_linears(spec, query_width, kv_width), *_mlp_linears(spec, width))
    return Layout(
        spec=spec,
        linears=linears,
        query_width=query_width,
        kv_width=kv_width,
        has_qk_norm=architecture.qk_norm != "none" and architecture.qk_norm_flag is None,
        norms_per_layer=architecture.norms_per_layer,
        expert_parameters=experts.parameters if experts else 0,
    )


def _attention_linears(spec: ModelSpec, query_width: int, kv_width: int) -> list[Linear]:
    h = spec.hidden_size
    names = list(spec.attention_modules)
    if len(names) not in (2, 4):
        names = ["q_proj", "k_proj", "v_proj", "o_proj"]
    out = next((name for name in names if name in _ATTENTION_OUTPUTS), names[-1])
    names.remove(out)
    if len(names) == 1:
        qkv = [Linear(names[0], "qkv", h, query_width + 2 * kv_width, spec.qkv_bias)]
    else:
        names.sort(key=lambda name: "qkv".find(name[0]))
        qkv = [Linear(name, "qkv", h, width, spec.qkv_bias) for name, width in zip(names, (query_width, kv_width, kv_width), strict=True)]
    return [*qkv, Linear(out, "o", query_width, h, spec.o_bias)]


def _mlp_linears(spec: ModelSpec, width: int) -> list[Linear]:
    """The MLP's layers; the output projection shares its name with the attention's in GPT-2 and Qwen v1 (`c_proj`)."""
    if width == 0:
        return []
    names = [name for name in spec.linear_modules if name not in spec.attention_modules]
    if spec.attention_modules and spec.attention_modules[-1] == "c_proj":
        out = "c_proj"
    elif "w2" in names and "w3" in names:
        out = "w2"
    else:
        known_outputs = ("down_proj", "dense_4h_to_h", "fc2", "fc_out", "c_proj", "output_linear")
        out = next((name for name in known_outputs if name in names), "down_proj")
    inputs = [name for name in names if name != out]
    expected = 2 if spec.mlp == "gated" else 1
    if not inputs or len(inputs) > expected:  # other mixers' projections are in the list too
        inputs = ["gate_proj", "up_proj"] if spec.mlp == "gated" else ["up_proj"]
    inner = expected * width // len(inputs)
    h = spec.hidden_size
    return [*(Linear(name, "mlp", h, inner, spec.mlp_bias) for name in inputs), Linear(out, "down", width, h, spec.mlp_bias)]
