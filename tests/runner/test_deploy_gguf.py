"""Models as GGUF files: read back by transformers they answer the same, to the last bit where nothing is rounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")

from made_runs import make_run  # noqa: E402
from small_models import SENTENCES, byte_level_tokenizer, sentencepiece_like_tokenizer, small_model  # noqa: E402

from ftadvise.estimator.weight_forms import weight_bytes  # noqa: E402
from ftadvise.profiles.errors import InputError  # noqa: E402
from ftadvise.profiles.local_model import spec_from_path  # noqa: E402
from ftadvise.runner.deploy import deploy_run  # noqa: E402
from ftadvise.runner.deploy import gguf as target  # noqa: E402
from ftadvise.runner.deploy.gguf_file import check_writable, write_gguf  # noqa: E402
from ftadvise.runner.deploy.gguf_tokenizer import NotConvertibleError, gguf_vocabulary  # noqa: E402
from ftadvise.runner.load_model import load_tokenizer  # noqa: E402
from ftadvise.runner.quiet import quiet_libraries  # noqa: E402

LLAMA3_SCALING = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
# transformers reads no head width of Qwen3 from a file (it takes 128), and takes a Llama file named "mistral" for another architecture
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "mistral": ("mistral", {"sliding_window": None, "tie_word_embeddings": False}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 128}),
}


@pytest.fixture(autouse=True)
def _no_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "find_tool", lambda name: None)


def _logits(model: Any) -> Any:
    with torch.no_grad():
        return model(torch.tensor([[5, 77, 300, 100, 200, 9, 8, 7]])).logits


def _loaded(folder: Path, file: str | None = None) -> Any:
    from transformers import AutoModelForCausalLM, GgufConfig

    options = {"gguf_file": file, "quantization_config": GgufConfig(dequantize=True)} if file else {}
    import contextlib
    import io

    with quiet_libraries(), contextlib.redirect_stderr(io.StringIO()):
        return AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, **options).eval()


@pytest.mark.parametrize("name", MODELS)
def test_a_file_without_rounding_answers_to_the_last_bit(name: str, tmp_path: Path) -> None:
    kind, config = MODELS[name]
    folder = small_model(tmp_path / "model", kind, **config)
    write_gguf(folder, tmp_path / "model.gguf", "f32", load_tokenizer(folder), name="small")
    assert torch.equal(_logits(_loaded(tmp_path, "model.gguf")), _logits(_loaded(folder)))


def test_biases_of_queries_and_keys_turn_with_their_weights(tmp_path: Path) -> None:
    """transformers reads no biases of Llama from GGUF files, so the tensors are compared."""
    from safetensors.torch import load_file

    folder = small_model(tmp_path / "model", attention_bias=True, mlp_bias=True, tie_word_embeddings=False)
    write_gguf(folder, tmp_path / "model.gguf", "f32", load_tokenizer(folder), name="small")
    stored, original = gguf.GGUFReader(tmp_path / "model.gguf").tensors, load_file(folder / "model.safetensors")
    found = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in stored}
    assert len(found) == len(original)
    for part, heads in (("q", 4), ("k", 2)):
        for kind in ("weight", "bias"):
            rows = found[f"blk.1.attn_{part}.{kind}"]
            halves = rows.reshape(heads, 8, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)
            assert torch.equal(halves, original[f"model.layers.1.self_attn.{part}_proj.{kind}"])
    assert torch.equal(found["blk.0.ffn_down.bias"], original["model.layers.0.mlp.down_proj.bias"])


@pytest.mark.parametrize(("kind", "least_cosine"), [("f16", 0.999999), ("bf16", 0.9999), ("q8_0", 0.9998), ("q5_1", 0.99), ("q4_0", 0.96)])
def test_fewer_bits_stay_near_and_take_the_bytes_that_were_predicted(kind: str, least_cosine: float, tmp_path: Path) -> None:
    folder = small_model(tmp_path / "model", tie_word_embeddings=False)
    path = tmp_path / "model.gguf"
    write_gguf(folder, path, kind, load_tokenizer(folder), name="small")
    got, expected = _logits(_loaded(tmp_path, "model.gguf")), _logits(_loaded(folder))
    assert torch.nn.functional.cosine_similarity(got.flatten(), expected.flatten(), dim=0) > least_cosine
    stored = sum(int(tensor.n_bytes) for tensor in gguf.GGUFReader(path).tensors)
    predicted = weight_bytes(spec_from_path(folder), f"gguf:{kind}")
    assert predicted.sureness == "exact"
    if kind in ("q5_1", "q4_0"):  # llama-quantize keeps embedding and head in other types than the gguf package can make
        assert stored == pytest.approx(predicted.total, rel=0.3)
    else:
        assert stored == predicted.total


def test_llama_3_frequency_factors_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {**LLAMA3_SCALING, "original_max_position_embeddings": 64}
    folder = small_model(tmp_path / "model", rope_parameters=scaling)
    write_gguf(folder, tmp_path / "model.gguf", "f32", load_tokenizer(folder), name="small")
    factors = next(tensor.data for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors if tensor.name == "rope_freqs.weight")
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](_loaded(folder).config, "cpu")
    plain = 1.0 / (10000.0 ** (torch.arange(0, 16, 2) / 16))
    assert torch.allclose(plain / torch.from_numpy(factors.copy()), scaled, rtol=1e-5)
    assert factors.min() == 1 < factors.max() <= 8


@pytest.mark.parametrize("digits", [False, True])
def test_the_tokenizer_in_the_file_reads_text_the_same(digits: bool, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = byte_level_tokenizer(digits=digits)
    folder = small_model(tmp_path / "model", tokenizer=tokenizer)
    write_gguf(folder, tmp_path / "model.gguf", "f16", tokenizer, name="small")
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    assert fields["tokenizer.ggml.pre"].contents() == ("smollm" if digits else "gpt-2")
    assert fields["tokenizer.chat_template"].contents() == tokenizer.chat_template
    assert fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.eos_token_id
    assert fields["tokenizer.ggml.add_bos_token"].contents() is False
    assert len(fields["tokenizer.ggml.tokens"].data) == len(tokenizer) + 6, "as many tokens as the embedding has rows"
    with quiet_libraries():
        back = AutoTokenizer.from_pretrained(str(tmp_path), gguf_file="model.gguf")
    texts = [*SENTENCES, "<|im_start|>user\nHi<|im_end|>"]
    if digits:  # transformers has no rule for this name; llama.cpp has
        texts = [text for text in texts if not any(letter.isdigit() for letter in text)]
    assert [back(text)["input_ids"] for text in texts] == [tokenizer(text)["input_ids"] for text in texts]


def test_pieces_get_the_scores_that_make_them_merge_in_their_order() -> None:
    tokenizer = sentencepiece_like_tokenizer()
    vocabulary = gguf_vocabulary(tokenizer, len(tokenizer))
    assert (vocabulary.model, vocabulary.pre, vocabulary.merges, vocabulary.add_space_prefix) == ("llama", "default", [], True)
    by_token = dict(zip(vocabulary.tokens, vocabulary.scores, strict=True))
    assert by_token["▁t"] == 0 > by_token["he"] > by_token["▁the"] > by_token["▁sat"]
    kinds = dict(zip(vocabulary.tokens, vocabulary.kinds, strict=True))
    assert (kinds["<s>"], kinds["<0x0A>"], kinds["▁the"], kinds["<unk>"]) == (3, 6, 1, 2)


def test_the_rules_of_splitting_are_those_that_transformers_has_under_the_same_names() -> None:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    for name in ("llama-bpe", "qwen2", "tekken"):
        tokenizer = byte_level_tokenizer(split=GGUF_PRE_TOKENIZER_SPLITS[name])
        assert gguf_vocabulary(tokenizer, len(tokenizer)).pre == name


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: byte_level_tokenizer(split=r"\w+"), "splitting"),
        (lambda: _with(byte_level_tokenizer(), "normalizer"), "normalizer"),
    ],
)
def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(make: Any, said: str) -> None:
    tokenizer = make()
    with pytest.raises(NotConvertibleError, match=said):
        gguf_vocabulary(tokenizer, len(tokenizer))


def _with(tokenizer: Any, _part: str) -> Any:
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


def test_a_vocabulary_larger_than_the_embedding_is_refused() -> None:
    tokenizer = byte_level_tokenizer()
    with pytest.raises(NotConvertibleError, match="embedding 100 rows"):
        gguf_vocabulary(tokenizer, 100)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "gemma"}, "'gemma'"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window"),
        ({"model_type": "llama", "rope_parameters": {"rope_type": "longrope"}}, "'longrope'"),
        ({"model_type": "llama", "rope_scaling": {"type": "llama3", "factor": 2}}, "'llama3'"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name(config: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(NotConvertibleError, match=said):
        check_writable(tmp_path, "f16")


def test_a_tensor_without_a_place_is_refused_and_no_file_is_left(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = small_model(tmp_path / "model")
    save_file({"model.layers.0.extra.weight": torch.zeros(2, 2)}, folder / "more.safetensors")
    with pytest.raises(NotConvertibleError, match=r"model\.layers\.0\.extra\.weight"):
        write_gguf(folder, tmp_path / "model.gguf", "f16", load_tokenizer(folder), name="small")
    assert not (tmp_path / "model.gguf").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("deploy")
    return make_run(folder / "run", small_model(folder / "base"))


def test_a_run_becomes_a_file_that_answers_like_base_and_adapter(run: Any) -> None:
    from ftadvise.runner.finished_run import load_tuned

    made = deploy_run(run.folder, "gguf", quantization="f32")
    assert (made.why, list(made.files)) == (None, ["run-f32.gguf"])
    assert made.folder == run.folder / "deploy" / "gguf"
    tuned, back = _logits(load_tuned(run, "cpu")), _logits(_loaded(made.folder, "run-f32.gguf"))
    assert torch.allclose(back, tuned, atol=1e-4)
    assert not torch.allclose(back, _logits(_loaded(run.base)), atol=1e-2), "the adapter changes the answers"


def test_a_mixture_that_is_not_made_here_comes_as_lines(run: Any, tmp_path: Path) -> None:
    made = deploy_run(run.folder, "gguf", quantization="Q4_K_M", out_dir=tmp_path / "new")
    assert made.folder is None
    assert not (tmp_path / "new").exists()
    assert "llama-quantize" in (made.why or "")
    lines = "\n".join(command.line for command in made.commands)
    for part in ("convert_hf_to_gguf.py", "--outtype bf16", "llama-quantize", "Q4_K_M", "llama-server", "ftadvise merge"):
        assert part in lines


def test_llama_cpp_s_own_programs_are_used_where_they_are(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "llama.cpp"
    tools.mkdir()
    converter = tools / "convert_hf_to_gguf.py"
    converter.write_text(
        "import sys, pathlib\nout = sys.argv[sys.argv.index('--outfile') + 1]\n"
        "assert (pathlib.Path(sys.argv[1]) / 'model.safetensors').is_file()\n"
        "pathlib.Path(out).write_text('converted ' + sys.argv[sys.argv.index('--outtype') + 1])\n"
    )
    quantizer = tools / "llama-quantize"
    quantizer.write_text('#!/bin/sh\nprintf \'%s quantised %s\' "$(cat "$1")" "$3" > "$2"\n')
    quantizer.chmod(0o755)
    monkeypatch.undo()
    monkeypatch.setenv("LLAMA_CPP_DIR", str(tools))
    made = deploy_run(run.folder, "gguf", quantization="q4_k_m", out_dir=tmp_path / "out")
    assert list(made.files) == ["run-q4_k_m.gguf"]
    assert (tmp_path / "out" / "run-q4_k_m.gguf").read_text() == "converted bf16 quantised Q4_K_M"

    converter.write_text("import sys\nsys.exit('Model \\x1b[31mSmall is not supported')\n")
    with pytest.raises(InputError, match=r"convert_hf_to_gguf\.py failed: Model .*Small is not supported") as caught:
        deploy_run(run.folder, "gguf", quantization="f16", out_dir=tmp_path / "failed")
    assert "\x1b" not in str(caught.value)
    assert not (tmp_path / "failed").exists()
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []
