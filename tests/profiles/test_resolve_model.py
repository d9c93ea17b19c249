"""What a user types becomes one model, a list of candidates, or a helpful refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftadvise.profiles.errors import InputError
from ftadvise.profiles.model_cards import all_cards
from ftadvise.profiles.resolve_model import default_model_id, list_models, resolve_model

CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "vocab_size": 100,
}


@pytest.fixture(autouse=True)
def _empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def test_every_id_resolves_to_itself() -> None:
    for card in all_cards():
        for model_id in [card["id"], *(entry["id"] for entry in card.get("variants", ()))]:
            assert resolve_model(model_id).id == model_id


@pytest.mark.parametrize(
    ("name", "model_id"),
    [
        ("Qwen-7B", "Qwen/Qwen-7B"),
        ("  qwen 7b ", "Qwen/Qwen-7B"),
        ("qwen/qwen-7b-CHAT", "Qwen/Qwen-7B-Chat"),
        ("qwen2_5 7b", "Qwen/Qwen2.5-7B"),
        ("qwen25-7b", "Qwen/Qwen2.5-7B"),
        ("qwen2.5-7b-instruct", "Qwen/Qwen2.5-7B-Instruct"),
        ("Qwen-1.8B", "Qwen/Qwen-1_8B"),
        ("llama3-8b", "meta-llama/Meta-Llama-3-8B"),
        ("llama 3 8b", "meta-llama/Meta-Llama-3-8B"),
        ("Llama-3-8B-Instruct", "meta-llama/Meta-Llama-3-8B-Instruct"),
        ("mistral 7b", "mistralai/Mistral-7B-v0.1"),
        ("qwen2-57b", "Qwen/Qwen2-57B-A14B"),
        ("gemma 2b it", "google/gemma-2b-it"),
        ("smollm2 135m", "HuggingFaceTB/SmolLM2-135M"),
        ("tiny llama", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
        ("gpt-j-6B", "EleutherAI/gpt-j-6B"),
    ],
)
def test_names_are_forgiving(name: str, model_id: str) -> None:
    assert resolve_model(name, offline=True).id == model_id


def test_default_model() -> None:
    spec = resolve_model(default_model_id())
    assert (spec.id, spec.total_params) == ("HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008)


def test_an_ambiguous_name_lists_its_candidates() -> None:
    with pytest.raises(InputError) as few:
        resolve_model("smollm2")
    assert "SmolLM2-135M, HuggingFaceTB/SmolLM2-360M, HuggingFaceTB/SmolLM2-1.7B" in str(few.value)
    assert "more" not in str(few.value)
    with pytest.raises(InputError, match=r"may mean \d+ models") as many:
        resolve_model("llama")
    assert str(many.value).count("/") == 8
    assert "... and" in str(many.value)


@pytest.mark.parametrize(
    ("name", "near"),
    [("lama3-9b", "llama3-8B"), ("Qwne-7B", "Qwen-7B"), ("Qwen/Qwen2.5-7B-Instructt", "Qwen2.5-7B-Instruct")],
)
def test_a_miss_names_what_is_near(name: str, near: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve_model(name, offline=True)
    assert repr(name) in str(caught.value)
    assert caught.value.hint is not None
    assert near in caught.value.hint


def test_a_known_model_under_another_organisation_is_a_hint_only() -> None:
    with pytest.raises(InputError, match="offline") as caught:
        resolve_model("meta-llama/Llama-3-8B-Instruct", offline=True)
    assert caught.value.hint is not None
    assert "did you mean meta-llama/Meta-Llama-3-8B-Instruct?" in caught.value.hint


@pytest.mark.parametrize("name", ["", "   ", "a\nb", "x" * 5000, "zzzzzz", "a/b/c", "../../etc", "https://example.org/model"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve_model(name, offline=True)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_a_folder_with_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    spec = resolve_model(str(folder))
    assert (spec.id, spec.num_layers, spec.local_path) == ("my-model", 2, str(folder))
    assert resolve_model(str(folder / "config.json")).id == "my-model"
    monkeypatch.chdir(tmp_path)
    assert resolve_model("my-model").num_layers == 2
    assert resolve_model("./my-model/").num_layers == 2
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_model("~/my-model").num_layers == 2


def test_a_folder_that_is_no_model_does_not_hide_a_known_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Qwen-7B").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_model("Qwen-7B").id == "Qwen/Qwen-7B"
    with pytest.raises(InputError, match=r"no config\.json"):
        resolve_model("./Qwen-7B")


def test_list_models() -> None:
    assert len(list_models()) == 396
    assert {spec.family for spec in list_models("codellama")} == {"codellama"}
    assert [spec.id for spec in list_models("qwen 7b chat")] == ["Qwen/Qwen-7B"]
    assert list_models("no such model") == []


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30) | st.text(alphabet="qwen27b.-_/~\\ ", max_size=12))
def test_any_text_is_a_model_or_an_input_error(name: str) -> None:
    try:
        message = resolve_model(name, offline=True).id
    except InputError as error:
        message = str(error)
    assert message
    assert "\n" not in message
