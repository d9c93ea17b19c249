"""The schema of a model card (profiles/models/*.yaml), checked with pydantic: by the tests for every packaged card, and for users' cards.

The packaged cards are trusted at run time, so nothing on the way of a plan imports this file.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ftadvise.profiles.architectures import architectures
from ftadvise.profiles.errors import InputError, did_you_mean

Size = Annotated[int, Field(strict=True, ge=1, le=10**8)]
Count = Annotated[int, Field(strict=True, ge=0)]
HubId = Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$", max_length=200)]
Flag = Annotated[bool, Field(strict=True)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Variant(_Strict):
    """Another hub repository with the same architecture and sizes (chat, instruct, coder ...)."""

    id: HubId
    license: str | None = None
    hub_created: str | None = None
    hub_params: Count | None = None
    from_registry: Flag = False
    """Seen only in another project's model list, not on the hub."""


class ExpertsCard(_Strict):
    """Mixture of experts; widths are those of one expert, `shared_intermediate_size` that of all shared experts together."""

    num_experts: Size
    experts_per_token: Size
    intermediate_size: Size
    num_shared_experts: Count = 0
    shared_intermediate_size: Size | None = None
    first_dense_layers: Count = 0
    parameters: Count | None = None
    latent_size: Size | None = None
    """Width of the latent space in which the experts work, where it is not the hidden size."""


class VisionCard(_Strict):
    """The vision tower: its parameters (part of `total_params`) and where they come from."""

    parameters: Count
    basis: str


class Card(_Strict):
    """Facts about one model; a field that is absent has the value of its architecture (architectures.yaml) or the default here.

    `total_params` counts unique parameters: a tied head once, no multi-token-prediction blocks, no buffers. `param_check` says how it was
    confirmed: counted on the meta device (`meta`) or by hand (`formula`), against the hub's safetensors total (`hub`) or a published count.
    `unconfirmed` names the fields that no opened source showed; ["*"] means every size (all that the parameter count alone cannot confirm).
    """

    id: HubId
    aliases: list[str] = []
    family: str
    model_type: str
    num_layers: Annotated[int, Field(strict=True, ge=1, le=10_000)]
    hidden_size: Size
    intermediate_size: Size | None = None
    """Effective width of the dense MLP (one gate or up projection); absent when every layer has experts."""
    num_attention_heads: Size
    num_kv_heads: Size
    head_dim: Size
    vocab_size: Size
    tie_word_embeddings: Flag
    max_position: Size | None = None
    """max_position_embeddings before rope scaling; absent for relative positions."""
    sliding_window: Size | None = None

    kind: Literal["causal_lm", "vision_language", "seq2seq", "encoder"] | None = None
    architecture: str | None = None
    remote_code: Flag | None = None
    mlp: Literal["gated", "plain"] | None = None
    norm: Literal["rmsnorm", "layernorm"] | None = None
    qkv_bias: Flag | None = None
    o_bias: Flag | None = None
    mlp_bias: Flag | None = None
    position: Literal["rope", "learned", "alibi", "relative", "relative_bias", "none"] | None = None
    linear_modules: list[str] | None = None
    attention_modules: list[str] | None = None
    linear_modules_source: str | None = None
    fused_expert_parameters: list[str] | None = None
    vision_linear_modules: list[str] | None = None
    peft_default_targets: list[str] | str | None = None

    experts: ExpertsCard | None = None
    vision: VisionCard | None = None
    mla: dict[str, int | None] | None = None
    """Multi-head latent attention: the ranks and head widths of config.json."""
    mamba: dict[str, int | float | None] | None = None
    conv: dict[str, int] | None = None
    linear_attention: dict[str, int | None] | None = None
    sparse_attention: dict[str, int | dict[str, int]] | None = None
    per_layer_embedding: dict[str, int] | None = None
    layer_types: dict[str, Count] | None = None
    """Number of layers by type."""
    layer_pattern: str | None = None
    """One letter per layer: F full attention, S sliding window, L linear attention, M Mamba-2, C short convolution, I attention with a
    sparse indexer, K compressed sparse, H heavily compressed attention, E experts only, - dense MLP only, P attention and Mamba-2."""
    full_attention_interval: Size | None = None
    global_head_dim: Size | None = None
    num_global_kv_heads: Size | None = None
    """Heads of the full-attention layers where they differ from the sliding ones."""
    num_kv_shared_layers: Count | None = None
    residual_streams: Size | None = None

    total_params: Size | Annotated[int, Field(strict=True, ge=1, le=10**14)]
    active_params: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Parameters of one token's path; absent for dense models."""
    param_check: dict[str, int | float | str | bool]
    lora_params_per_rank: Count | None = None
    """Sum of (inputs + outputs) over all linear modules: LoRA on all of them has rank times this many parameters."""
    checkpoint_dtype: Literal["bf16", "fp16", "fp32", "fp8", "mxfp4"] = "bf16"
    license: str | None = None
    license_from: str | None = None
    gated: Flag | None = None
    """Access must be asked for on the hub; absent when not known."""
    hub_created: str | None = None
    modelscope_id: str | None = None
    llamafactory_name: str | None = None
    llamafactory_template: str | None = None
    variants: list[Variant] = []
    dims_basis: Literal["record", "transformers_defaults", "typed_count_matched"] = "record"
    confidence: Literal["high", "medium", "low"]
    unconfirmed: list[str] = []
    notes: list[str] = []
    cross_checked_with: list[str] = []
    sources: Annotated[list[str], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Card:
        """What single fields cannot show."""
        if self.model_type not in architectures():
            raise ValueError(
                f"model_type {self.model_type!r} is not in architectures.yaml; {did_you_mean(self.model_type, architectures())}"
            )
        if self.num_attention_heads % self.num_kv_heads:
            raise ValueError(f"num_attention_heads {self.num_attention_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if self.active_params and self.active_params > self.total_params:
            raise ValueError("active_params is larger than total_params")
        if self.experts and self.experts.experts_per_token > self.experts.num_experts:
            raise ValueError("experts.experts_per_token is larger than experts.num_experts")
        if self.layer_pattern and len(self.layer_pattern) != self.num_layers:
            raise ValueError(f"layer_pattern has {len(self.layer_pattern)} letters for {self.num_layers} layers")
        for name in self.unconfirmed:
            if name != "*" and name.split(".")[0] not in type(self).model_fields:
                raise ValueError(f"unconfirmed names {name!r}, which is no field; {did_you_mean(name, type(self).model_fields)}")
        return self


def validate_card(card: Any, *, file: str) -> Card:
    """The card, checked.

    Args:
        card: what the YAML file holds for one model.
        file: its file name, for the message.

    Raises:
        InputError: names the file, the model, the key, and for an unknown key the nearest valid one.
    """
    try:
        return Card.model_validate(card)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    location = [str(part) for part in first["loc"]]
    model = card.get("id") if isinstance(card, dict) else None
    where = file + (f", model {model!r}" if isinstance(model, str) else "") + (f", key {'.'.join(location)}" if location else "")
    hint = None
    if first["type"] == "extra_forbidden":
        sections: dict[str, type[BaseModel]] = {"experts": ExpertsCard, "vision": VisionCard, "variants": Variant}
        schema = sections.get(location[0], Card) if len(location) > 1 else Card
        hint = did_you_mean(location[-1], schema.model_fields)
        message = "unknown key"
    else:
        message = re.sub(r"^(Value error, |Input )", "", first["msg"])
        if first["type"] != "missing" and not isinstance(first["input"], (dict, list)):
            message += f" (it is {first['input']!r})"
    raise InputError(f"{where}: {message}", hint=hint) from None
