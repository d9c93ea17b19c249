"""The packaged cards: every one fits the schema, names its sources, and its parameter count follows from its sizes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from ftadvise.profiles.architectures import architectures
from ftadvise.profiles.card_schema import validate_card
from ftadvise.profiles.count_parameters import Dimensions, count_parameters
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.model_cards import CARDS_FOLDER, all_cards, card_to_spec, source_legend

# Models whose count needs a switch of their config.json that cards do not carry; test_model_config.py reads them from configs.
SWITCHED = {
    "zai-org/GLM-4.5",
    "tiiuae/falcon-7b",
    "tiiuae/falcon-11B",
    "stabilityai/stablelm-2-12b",
    "CohereLabs/c4ai-command-r-plus",
}


def _card(model_id: str) -> dict[str, Any]:
    return next(card for card in all_cards() if card["id"] == model_id)


def test_every_card_fits_the_schema() -> None:
    assert len(all_cards()) == 396
    for card in all_cards():
        validate_card(card, file="models/*.yaml")


def test_ids_are_unique_over_cards_and_variants() -> None:
    ids = Counter(model_id for card in all_cards() for model_id in [card["id"], *(entry["id"] for entry in card.get("variants", []))])
    assert [model_id for model_id, count in ids.items() if count > 1] == []
    assert len(ids) == 396 + 502


def test_every_source_is_explained() -> None:
    """A source is a key of the legend, or a pattern of it such as llmfit#<id>, or names its repository or package itself."""
    stems = {key.split("#")[0].split(" <")[0] for key in source_legend()}
    for card in all_cards():
        for source in card["sources"]:
            assert any(source.startswith(stem) or stem in source for stem in stems) or "@" in source or ":" in source or " " in source, (
                source
            )


def test_files_are_small_enough_to_read() -> None:
    assert all(path.stat().st_size < 100_000 for path in CARDS_FOLDER.glob("*.yaml"))


def _countable() -> list[dict[str, Any]]:
    plain = {"sliding_window", "mla", "vision"}
    cards = [card for card in all_cards() if architectures()[card["model_type"]].countable and card["id"] not in SWITCHED]
    return [card for card in cards if set(card_to_spec(card).special) <= plain]


def test_parameter_counts_follow_from_the_sizes() -> None:
    """Exact to the last parameter for every card of a countable architecture; for vision models without the tower."""
    wrong = {}
    for card in _countable():
        spec, shared = card_to_spec(card), architectures()[card["model_type"]]
        learned = (spec.max_position or 0) + shared.position_offset if spec.position == "learned" else 0
        sizes = Dimensions(
            num_layers=spec.num_layers,
            hidden_size=spec.hidden_size,
            intermediate_size=spec.intermediate_size,
            num_attention_heads=spec.num_attention_heads,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            vocab_size=spec.vocab_size,
            tie_word_embeddings=spec.tie_word_embeddings,
            learned_positions=learned,
            mlp=spec.mlp,
            norm=spec.norm,
            qkv_bias=spec.qkv_bias,
            o_bias=spec.o_bias,
            mlp_bias=spec.mlp_bias,
            experts=spec.experts,
            mla=card.get("mla"),
        )
        count = count_parameters(sizes, shared)
        tower = card.get("vision", {}).get("parameters", 0)
        if count.total + tower != spec.total_params:
            wrong[spec.id] = count.total + tower - spec.total_params
        if spec.experts and spec.experts.parameters and count.experts != spec.experts.parameters and not shared.expert_bias:
            wrong[spec.id + " experts"] = count.experts - spec.experts.parameters
    assert wrong == {}
    assert len(_countable()) > 280


def test_qwen_v1_has_the_effective_mlp_width() -> None:
    spec = card_to_spec(_card("Qwen/Qwen-7B"), "Qwen/Qwen-7B-Chat")
    assert (spec.id, spec.intermediate_size, spec.total_params) == ("Qwen/Qwen-7B-Chat", 11008, 7_721_324_544)
    assert spec.linear_modules == ("c_attn", "c_proj", "w1", "w2")
    assert spec.remote_code


def test_attention_modules_are_linear_modules() -> None:
    for card in all_cards():
        spec = card_to_spec(card)
        assert spec.linear_modules, spec.id
        assert spec.attention_modules, spec.id
        assert set(spec.attention_modules) <= set(spec.linear_modules), spec.id


def test_weak_values_are_named() -> None:
    assert "linear_modules" in card_to_spec(_card("internlm/internlm-7b")).unconfirmed
    assert "linear_modules" not in card_to_spec(_card("Qwen/Qwen-7B")).unconfirmed
    assert "num_attention_heads" in card_to_spec(_card("FacebookAI/roberta-base")).unconfirmed
    assert "max_position" in card_to_spec(_card("CohereLabs/c4ai-command-r-v01")).unconfirmed
    assert card_to_spec(_card("meta-llama/Llama-3.1-8B")).unconfirmed == ()
    fitted = card_to_spec(_card("Qwen/Qwen3.8-2.4T-A95B")).unconfirmed
    assert {"hidden_size", "experts", "linear_attention"} <= set(fitted)
    assert "total_params" not in fitted


def test_a_mixture_of_experts_card() -> None:
    spec = card_to_spec(_card("deepseek-ai/DeepSeek-V3"))
    assert spec.experts is not None
    assert (spec.experts.num_experts, spec.experts.first_dense_layers, spec.experts.shared_intermediate_size) == (256, 3, 2048)
    assert spec.active_params < spec.total_params
    assert spec.special == ("mla",)
    assert spec.checkpoint_dtype == "fp8"


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"hiden_size": 3}, "key hiden_size: unknown key", "did you mean hidden_size?"),
        ({"num_layers": "32"}, "key num_layers", None),
        ({"hidden_size": True}, "key hidden_size", None),
        ({"experts": {"num_expert": 3}}, "experts.", None),
        ({"num_kv_heads": 5}, "not a multiple", None),
        ({"model_type": "lama"}, "did you mean llama", None),
        ({"unconfirmed": ["max_positions"]}, "did you mean max_position", None),
        ({"layer_pattern": "FF"}, "2 letters for 32 layers", None),
        ({"sources": []}, "key sources", None),
    ],
)
def test_a_wrong_card_is_told_by_file_model_and_key(change: dict[str, Any], message: str, hint: str | None) -> None:
    with pytest.raises(InputError) as caught:
        validate_card(_card("Qwen/Qwen-7B") | change, file="mine.yaml")
    assert str(caught.value).startswith("mine.yaml, model 'Qwen/Qwen-7B'")
    assert message in str(caught.value)
    assert hint is None or caught.value.hint == hint


def test_a_card_that_is_no_mapping() -> None:
    with pytest.raises(InputError, match=r"mine\.yaml"):
        validate_card(["Qwen"], file="mine.yaml")
