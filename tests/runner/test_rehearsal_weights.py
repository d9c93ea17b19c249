"""Rehearsals: random weights stand in for real ones, and configs are built from cards."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from ftadvise.estimator.recipe import Recipe  # noqa: E402
from ftadvise.profiles.errors import InputError  # noqa: E402
from ftadvise.profiles.resolve_model import resolve_model  # noqa: E402
from ftadvise.runner.load_model import check_remote_code, load_model  # noqa: E402
from ftadvise.runner.rehearse import random_checkpoint, skeleton, synthetic_rows, synthetic_tokenizer, write_config_from_spec  # noqa: E402

SMALL = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}


def _config(folder: Path, **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SMALL | changes))
    return folder


@pytest.mark.parametrize("tied", [True, False])
def test_random_weights_load_like_real_ones_and_leave_nothing(tmp_path: Path, tied: bool) -> None:
    source = _config(tmp_path / "config", tie_word_embeddings=tied)
    work = tmp_path / "work"
    work.mkdir()
    with random_checkpoint(source, Recipe(compute_dtype="fp32"), work) as folder:
        model = load_model(folder, Recipe(compute_dtype="fp32"), "cpu")
    assert list(work.iterdir()) == []
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (head.data_ptr() == embedding.data_ptr()) is tied
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in skeleton(source).parameters())
    norm = model.model.norm.weight
    assert torch.equal(norm, torch.ones_like(norm))
    assert float(embedding.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_the_recipe_decides_dtype_and_what_is_quantised(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    recipe = Recipe(compute_dtype="fp32", quantization="nf4", double_quantization=True, high_precision_modules=("down_proj",))
    with random_checkpoint(_config(tmp_path / "c", tie_word_embeddings=False), recipe, tmp_path) as folder:
        model = load_model(folder, recipe, "cpu")
    kinds = {name: type(module).__name__ for name, module in model.named_modules() if hasattr(module, "in_features")}
    assert {kind for name, kind in kinds.items() if not name.endswith(("down_proj", "lm_head"))} == {"Linear4bit"}
    assert {kind for name, kind in kinds.items() if name.endswith(("down_proj", "lm_head"))} == {"Linear"}
    weight = model.model.layers[0].self_attn.q_proj.weight
    assert weight.dtype == torch.uint8
    assert weight.quant_state.nested
    assert weight.quant_state.quant_type == "nf4"


@pytest.mark.parametrize(("dtype", "torch_name"), [("fp32", "float32"), ("bf16", "bfloat16")])
def test_plain_weights_have_the_compute_dtype(tmp_path: Path, dtype: str, torch_name: str) -> None:
    recipe = Recipe(compute_dtype=dtype)  # type: ignore[arg-type]
    with random_checkpoint(_config(tmp_path / "c"), recipe, tmp_path) as folder:
        model = load_model(folder, recipe, "cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, torch_name)}
    assert model.config._attn_implementation == "sdpa"


def test_a_disk_too_small_for_the_random_weights_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(1, 1, 1000))
    with pytest.raises(InputError, match=r"0\.0 GiB are free"), random_checkpoint(_config(tmp_path / "c"), Recipe(), tmp_path):
        pass


@pytest.mark.parametrize(
    "changes",
    [{"num_attention_heads": 0}, {"vocab_size": -5}, {"hidden_size": "wide"}, {"num_hidden_layers": 10**12}, {"hidden_act": "no-such"}],
)
def test_a_config_no_model_can_be_built_from_is_an_input_error(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"config\.json") as caught:
        skeleton(_config(tmp_path, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", "HuggingFaceTB/SmolLM2-135M", "meta-llama/Llama-3.1-8B", "mistralai/Mistral-7B-v0.3"])
def test_a_card_gives_the_config_of_the_very_model(tmp_path: Path, name: str) -> None:
    spec = resolve_model(name, offline=True)
    write_config_from_spec(spec, tmp_path)
    model = skeleton(tmp_path)
    assert sum(parameter.numel() for parameter in model.parameters()) == spec.total_params
    assert model.config.num_key_value_heads == spec.num_kv_heads


def test_a_card_that_does_not_describe_everything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not describe it completely"):
        write_config_from_spec(resolve_model("Qwen/Qwen-7B", offline=True), tmp_path)


def test_code_that_comes_with_a_model_needs_the_flag(tmp_path: Path) -> None:
    own_code = {"model_type": "someones-own", "auto_map": {"AutoModelForCausalLM": "modeling.Own"}}
    folder = _config(tmp_path, **own_code)
    with pytest.raises(InputError, match="runs Python code") as caught:
        check_remote_code(folder, trusted=False)
    assert "--trust-remote-code" in str(caught.value.hint)
    check_remote_code(folder, trusted=True)
    check_remote_code(_config(tmp_path), trusted=False)


def test_flash_attention_without_a_gpu_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="flash_attention_2 needs a GPU"):
        load_model(_config(tmp_path), Recipe(attention="flash_attention_2"), "cpu")


def test_synthetic_rows_are_the_longest_the_recipe_allows() -> None:
    rows = synthetic_rows(100, 17, 3, seed=1)
    assert [len(row["input_ids"]) for row in rows] == [17] * 3
    assert all(0 <= token < 100 for row in rows for token in row["input_ids"])
    assert rows == synthetic_rows(100, 17, 3, seed=1)
    tokenizer = synthetic_tokenizer(100)
    assert tokenizer.pad_token in tokenizer.get_vocab()
    assert tokenizer.eos_token in tokenizer.get_vocab()
