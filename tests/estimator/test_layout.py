"""The layout against published parameter counts and LoRA counts of every packaged card."""

from __future__ import annotations

from typing import Any

import pytest

from ftadvise.estimator.layout import layout_of
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.model_cards import all_cards, card_to_spec
from ftadvise.profiles.model_spec import ModelSpec
from ftadvise.profiles.resolve_model import resolve_model

# features that layout.py's docstring says this shape only approximates
OTHER_MIXERS = {"mla", "mamba", "linear_attention", "short_convolution", "sparse_attention", "projected_embedding"}
# learned positions are more than 1 % of these small models; they are counted among the small parameters
LEARNED_POSITIONS = {"facebook/opt-125m", "EleutherAI/gpt-neo-125m", "distilbert/distilgpt2", "bigcode/starcoderbase-1b"}
# dense layers beside experts, whose width is averaged; the first one's card does not count its experts
EXPERTS = {"deepseek-ai/deepseek-moe-16b-base", "arcee-ai/Trinity-Mini", "arcee-ai/Trinity-Nano-Preview"}

CARDS: list[tuple[dict[str, Any], ModelSpec]] = [(card, card_to_spec(card)) for card in all_cards()]
DECODERS = [(card, spec) for card, spec in CARDS if spec.kind == "causal_lm"]
PLAIN = [(card, spec) for card, spec in DECODERS if not set(spec.special) - {"sliding_window"} and spec.experts is None]


def shapes(model: str) -> dict[str, tuple[int, int]]:
    """name -> (inputs, outputs) of the linear layers of one decoder layer; two of the same name get their group."""
    linears = layout_of(resolve_model(model)).linears
    names = [linear.name for linear in linears]
    return {
        (x.name if names.count(x.name) == 1 else f"{x.name} ({x.group})"): (x.in_features, x.out_features) for x in linears
    }  # fmt: skip


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            "meta-llama/Llama-3.1-8B",
            {
                "q_proj": (4096, 4096), "k_proj": (4096, 1024), "v_proj": (4096, 1024), "o_proj": (4096, 4096),
                "gate_proj": (4096, 14336), "up_proj": (4096, 14336), "down_proj": (14336, 4096),
            },
        ),
        (
            "Qwen/Qwen2-7B",
            {
                "q_proj": (3584, 3584), "k_proj": (3584, 512), "v_proj": (3584, 512), "o_proj": (3584, 3584),
                "gate_proj": (3584, 18944), "up_proj": (3584, 18944), "down_proj": (18944, 3584),
            },
        ),
        (
            "Qwen/Qwen-7B",
            {
                "c_attn": (4096, 12288), "c_proj (o)": (4096, 4096),
                "w1": (4096, 11008), "w2": (4096, 11008), "c_proj (down)": (11008, 4096),
            },
        ),
        (
            "microsoft/Phi-3-mini-4k-instruct",
            {"qkv_proj": (3072, 9216), "o_proj": (3072, 3072), "gate_up_proj": (3072, 16384), "down_proj": (8192, 3072)},
        ),
        ("openai-community/gpt2", {"c_attn": (768, 2304), "c_proj (o)": (768, 768), "c_fc": (768, 3072), "c_proj (down)": (3072, 768)}),
        (
            "tiiuae/falcon-7b",
            {"query_key_value": (4544, 4672), "dense": (4544, 4544), "dense_h_to_4h": (4544, 18176), "dense_4h_to_h": (18176, 4544)},
        ),
        (
            "bigscience/bloom-7b1",
            {"query_key_value": (4096, 12288), "dense": (4096, 4096), "dense_h_to_4h": (4096, 16384), "dense_4h_to_h": (16384, 4096)},
        ),
        (
            "zai-org/chatglm3-6b",
            {"query_key_value": (4096, 4608), "dense": (4096, 4096), "dense_h_to_4h": (4096, 27392), "dense_4h_to_h": (13696, 4096)},
        ),
        (
            "internlm/internlm2-7b",
            {"wqkv": (4096, 6144), "wo": (4096, 4096), "w1": (4096, 14336), "w3": (4096, 14336), "w2": (14336, 4096)},
        ),
        ("mistralai/Mixtral-8x7B-v0.1", {"q_proj": (4096, 4096), "k_proj": (4096, 1024), "v_proj": (4096, 1024), "o_proj": (4096, 4096)}),
    ],
)  # fmt: skip
def test_linear_layers_have_the_names_and_shapes_of_the_real_model(model: str, expected: dict[str, tuple[int, int]]) -> None:
    assert shapes(model) == expected


def test_there_are_enough_cards_to_mean_something() -> None:
    assert len(PLAIN) > 150


@pytest.mark.parametrize("spec", [spec for _, spec in PLAIN if spec.id not in LEARNED_POSITIONS], ids=lambda spec: spec.id)
def test_the_layout_explains_a_plain_decoders_published_parameters(spec: ModelSpec) -> None:
    assert layout_of(spec).unexplained_share < 0.01


def test_what_the_layout_does_not_explain_is_what_is_documented() -> None:
    above = {spec.id: spec for _, spec in DECODERS if layout_of(spec).unexplained_share >= 0.01}
    undocumented = {name for name, spec in above.items() if not OTHER_MIXERS & set(spec.special)}
    assert undocumented == LEARNED_POSITIONS | EXPERTS


@pytest.mark.parametrize(("card", "spec"), PLAIN, ids=lambda value: value.id if isinstance(value, ModelSpec) else "")
def test_lora_on_all_linear_layers_has_as_many_parameters_as_published(card: dict[str, Any], spec: ModelSpec) -> None:
    per_rank = spec.num_layers * sum(x.in_features + x.out_features for x in layout_of(spec).linears)
    assert per_rank == card["lora_params_per_rank"]


@pytest.mark.parametrize("spec", [spec for _, spec in DECODERS], ids=lambda spec: spec.id)
def test_parts_never_exceed_nor_miss_the_whole(spec: ModelSpec) -> None:
    layout = layout_of(spec)
    parts = layout.linear_parameters + layout.embedding_parameters + layout.head_parameters + layout.expert_parameters
    assert parts + layout.small_parameters >= spec.total_params
    assert layout.small_parameters >= 0


def test_experts_are_counted_once_and_not_as_linear_layers() -> None:
    layout = layout_of(resolve_model("mistralai/Mixtral-8x7B-v0.1"))
    assert layout.expert_parameters == 32 * 8 * 3 * 4096 * 14336
    assert layout.unexplained_share < 0.001


def test_an_unknown_target_gets_the_nearest_name() -> None:
    layout = layout_of(resolve_model("Qwen/Qwen2-7B"))
    with pytest.raises(InputError, match="no linear layer 'q_porj'") as error:
        layout.adapted(Recipe(target_modules=("q_porj",)))
    assert error.value.hint is not None
    assert "q_proj" in error.value.hint


def test_a_target_that_is_like_nothing_gets_all_names() -> None:
    layout = layout_of(resolve_model("openai-community/gpt2"))
    with pytest.raises(InputError) as error:
        layout.adapted(Recipe(target_modules=("xyz",)))
    assert error.value.hint == "its linear layers: c_attn, c_fc, c_proj"


def test_a_name_that_two_layers_share_adapts_both() -> None:
    adapted = layout_of(resolve_model("openai-community/gpt2")).adapted(Recipe(target_modules=("c_proj",)))
    assert [linear.group for linear in adapted] == ["o", "down"]


def test_two_models_with_one_name_keep_their_own_layout() -> None:
    import dataclasses

    small = resolve_model("Qwen/Qwen2-7B")
    large = dataclasses.replace(small, num_layers=2 * small.num_layers)
    assert layout_of(large).linear_parameters == 2 * layout_of(small).linear_parameters
