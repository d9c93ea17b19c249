"""Reading config.json: the names of every model type, exact parameter counts, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftadvise.profiles.architectures import architectures
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.json_objects import parse_json_object, read_json_object
from ftadvise.profiles.model_cards import all_cards, card_to_spec
from ftadvise.profiles.model_config import spec_from_config
from ftadvise.profiles.model_spec import ModelSpec

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 30,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}


def _read(config: dict[str, Any]) -> ModelSpec:
    return spec_from_config(config, source="config.json")


def _card_spec(model_id: str) -> ModelSpec:
    return card_to_spec(next(card for card in all_cards() if card["id"] == model_id))


# The published config.json files in excerpt, for the types that name or mean things in their own way.
PUBLISHED = {
    "openai-community/gpt2": {
        "model_type": "gpt2",
        "n_layer": 12,
        "n_embd": 768,
        "n_head": 12,
        "n_ctx": 1024,
        "n_positions": 1024,
        "vocab_size": 50257,
    },
    "bigscience/bloom-560m": {
        "model_type": "bloom",
        "n_layer": 24,
        "hidden_size": 1024,
        "n_head": 16,
        "vocab_size": 250880,
        "seq_length": 2048,
    },
    "EleutherAI/gpt-j-6b": {
        "model_type": "gptj",
        "n_layer": 28,
        "n_embd": 4096,
        "n_head": 16,
        "n_inner": None,
        "n_positions": 2048,
        "vocab_size": 50400,
    }
    | {"tie_word_embeddings": False},
    "EleutherAI/gpt-neo-125m": {"model_type": "gpt_neo", "num_layers": 12, "hidden_size": 768, "num_heads": 12, "intermediate_size": None}
    | {"max_position_embeddings": 2048, "vocab_size": 50257},
    "facebook/opt-1.3b": {"model_type": "opt", "num_hidden_layers": 24, "hidden_size": 2048, "ffn_dim": 8192, "num_attention_heads": 32}
    | {"word_embed_proj_dim": 2048, "vocab_size": 50272, "max_position_embeddings": 2048},
    "tiiuae/falcon-7b": {
        "model_type": "falcon",
        "num_hidden_layers": 32,
        "hidden_size": 4544,
        "num_attention_heads": 71,
        "num_kv_heads": 71,
    }
    | {"multi_query": True, "parallel_attn": True, "new_decoder_architecture": False, "bias": False, "alibi": False, "vocab_size": 65024},
    "tiiuae/falcon-40b": {
        "model_type": "falcon",
        "num_hidden_layers": 60,
        "hidden_size": 8192,
        "num_attention_heads": 128,
        "num_kv_heads": 8,
    }
    | {"multi_query": True, "parallel_attn": True, "new_decoder_architecture": True, "bias": False, "alibi": False, "vocab_size": 65024},
    "tiiuae/falcon-11B": {
        "model_type": "falcon",
        "num_hidden_layers": 60,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_kv_heads": 8,
    }
    | {
        "new_decoder_architecture": True,
        "num_ln_in_parallel_attn": 1,
        "ffn_hidden_size": 16384,
        "vocab_size": 65024,
        "tie_word_embeddings": False,
    },
    "bigcode/starcoder": {"model_type": "gpt_bigcode", "n_layer": 40, "n_embd": 6144, "n_head": 48, "n_inner": 24576, "multi_query": True}
    | {"n_positions": 8192, "vocab_size": 49152},
    "THUDM/chatglm2-6b": {
        "model_type": "chatglm",
        "num_layers": 28,
        "hidden_size": 4096,
        "ffn_hidden_size": 13696,
        "num_attention_heads": 32,
    }
    | {"kv_channels": 128, "multi_query_attention": True, "multi_query_group_num": 2, "padded_vocab_size": 65024, "seq_length": 32768}
    | {"add_qkv_bias": True, "add_bias_linear": False, "tie_word_embeddings": False, "auto_map": {"AutoModel": "modeling_chatglm.X"}},
    "Qwen/Qwen-7B": {
        "model_type": "qwen",
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_attention_heads": 32,
    }
    | {"kv_channels": 128, "seq_length": 8192, "max_position_embeddings": 32768, "vocab_size": 151936, "tie_word_embeddings": False}
    | {"auto_map": {"AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel"}},
    "stabilityai/stablelm-2-12b": {"model_type": "stablelm", "num_hidden_layers": 40, "hidden_size": 5120, "intermediate_size": 13824}
    | {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 100352, "qk_layernorm": True, "use_parallel_residual": True},
    "CohereLabs/c4ai-command-r-plus": {"model_type": "cohere", "num_hidden_layers": 64, "hidden_size": 12288, "intermediate_size": 33792}
    | {"num_attention_heads": 96, "num_key_value_heads": 8, "vocab_size": 256000, "use_qk_norm": True},
    "zai-org/GLM-4.5": {"model_type": "glm4_moe", "num_hidden_layers": 92, "hidden_size": 5120, "intermediate_size": 12288, "head_dim": 128}
    | {"num_attention_heads": 96, "num_key_value_heads": 8, "vocab_size": 151552, "attention_bias": True, "use_qk_norm": True}
    | {"n_routed_experts": 160, "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 1536, "first_k_dense_replace": 3},
    "mistralai/Mixtral-8x7B-v0.1": {"model_type": "mixtral", "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336}
    | {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "num_local_experts": 8, "num_experts_per_tok": 2},
    "Qwen/Qwen1.5-MoE-A2.7B": {"model_type": "qwen2_moe", "num_hidden_layers": 24, "hidden_size": 2048, "intermediate_size": 5632}
    | {"num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 151936, "num_experts": 60, "num_experts_per_tok": 4}
    | {"moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632, "decoder_sparse_step": 1},
    "deepseek-ai/DeepSeek-V3": {"model_type": "deepseek_v3", "num_hidden_layers": 61, "hidden_size": 7168, "intermediate_size": 18432}
    | {"num_attention_heads": 128, "num_key_value_heads": 128, "vocab_size": 129280, "n_routed_experts": 256, "n_shared_experts": 1}
    | {"num_experts_per_tok": 8, "moe_intermediate_size": 2048, "first_k_dense_replace": 3, "q_lora_rank": 1536, "kv_lora_rank": 512}
    | {"qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "quantization_config": {"quant_method": "fp8"}},
}


@pytest.mark.parametrize("model_id", PUBLISHED)
def test_published_configs_agree_with_the_cards(model_id: str) -> None:
    """Same sizes, names and, to the last one, parameters as the independently gathered card."""
    spec, card = _read(PUBLISHED[model_id]), _card_spec(model_id)
    for field in ("num_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_kv_heads", "head_dim", "vocab_size"):
        assert getattr(spec, field) == getattr(card, field), field
    for field in ("tie_word_embeddings", "mlp", "norm", "qkv_bias", "o_bias", "mlp_bias", "position", "linear_modules", "remote_code"):
        assert getattr(spec, field) == getattr(card, field), field
    assert spec.total_params == card.total_params
    assert spec.active_params == card.active_params
    if card.experts:
        assert spec.experts == card.experts


def _standard_config(spec: ModelSpec, card: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "model_type": spec.model_type,
        "num_hidden_layers": spec.num_layers,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size or None,
        "num_attention_heads": spec.num_attention_heads,
        "num_key_value_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "vocab_size": spec.vocab_size,
        "tie_word_embeddings": spec.tie_word_embeddings,
        "max_position_embeddings": spec.max_position,
        "sliding_window": spec.sliding_window,
        "attention_bias": spec.qkv_bias,
        "attention_out_bias": spec.o_bias,
        **card.get("mla", {}),
    }
    if spec.experts:
        config |= {
            "num_experts": spec.experts.num_experts,
            "num_experts_per_tok": spec.experts.experts_per_token,
            "moe_intermediate_size": spec.experts.intermediate_size,
            "num_shared_experts": spec.experts.num_shared_experts,
            "shared_expert_intermediate_size": spec.experts.shared_intermediate_size,
            "first_k_dense_replace": spec.experts.first_dense_layers,
        }
    return config


def test_standard_configs_count_as_the_cards_do() -> None:
    """A config with the usual names, made of any countable text model's card, gives the card's sizes and published count back."""
    own_way = {"qwen", "chatglm", "falcon", "gpt_bigcode", "internlm"} | {
        key for key, value in architectures().items() if value.qk_norm_flag
    }
    checked = 0
    for card in all_cards():
        spec = card_to_spec(card)
        if not architectures()[spec.model_type].countable or spec.model_type in own_way or set(spec.special) - {"sliding_window", "mla"}:
            continue
        read = _read(_standard_config(spec, card))
        assert (spec.id, read.total_params) == (spec.id, spec.total_params)
        assert (read.hidden_size, read.head_dim, read.num_kv_heads) == (spec.hidden_size, spec.head_dim, spec.num_kv_heads)
        assert read.confidence == "high"
        checked += 1
    assert checked > 230


def test_a_plain_llama_config() -> None:
    spec = _read(LLAMA)
    assert (spec.total_params, spec.head_dim, spec.checkpoint_dtype, spec.special) == (134_515_008, 64, "bf16", ())
    assert spec.attention_modules == ("q_proj", "k_proj", "v_proj", "o_proj")
    assert spec.origin == "config"


def test_an_unknown_type_is_still_planned() -> None:
    spec = _read(LLAMA | {"model_type": "brand_new", "architectures": ["BrandNewForCausalLM"], "auto_map": {"AutoModel": "x.y"}})
    assert spec.special == ("unknown_architecture",)
    assert (spec.architecture, spec.remote_code, spec.confidence) == ("BrandNewForCausalLM", True, "low")
    assert {"linear_modules", "total_params"} <= set(spec.unconfirmed)
    without_type = _read({key: value for key, value in LLAMA.items() if key != "model_type"})
    assert without_type.model_type == "unknown"


def test_stored_parameters_count_where_the_formula_is_not_exact() -> None:
    unknown = spec_from_config(LLAMA | {"model_type": "brand_new"}, source="x", stored_params=140_000_000)
    assert (unknown.total_params, unknown.confidence) == (140_000_000, "medium")
    assert "total_params" not in unknown.unconfirmed
    known = spec_from_config(LLAMA, source="x", stored_params=162_826_560)  # the tied head stored a second time
    assert known.total_params == 134_515_008


def test_nested_text_part_of_a_vision_model() -> None:
    """Gemma 3 4B states six sizes; the others are the defaults of transformers' text config."""
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024}
    spec = _read({"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 1152}, "torch_dtype": "bfloat16"})
    card = _card_spec("google/gemma-3-4b-pt")
    for field in ("num_layers", "hidden_size", "num_attention_heads", "num_kv_heads", "head_dim", "vocab_size", "tie_word_embeddings"):
        assert getattr(spec, field) == getattr(card, field), field
    assert spec.kind == "vision_language"
    assert {"vision", "sliding_window"} <= set(spec.special)
    assert "total_params" in spec.unconfirmed


def test_at_the_top_sizes_must_be_stated() -> None:
    with pytest.raises(InputError, match="num_hidden_layers is missing"):
        _read({"model_type": "gemma3"})


def test_features_outside_the_dense_decoder_are_named() -> None:
    assert "linear_attention" in _read(LLAMA | {"linear_num_value_heads": 32}).special
    assert _read(LLAMA | {"layer_types": ["full_attention"] * 30, "mamba_n_heads": 128}).special == ()
    assert _read(LLAMA | {"layer_types": ["mamba", "attention"], "mamba_n_heads": 128}).special == ("mamba",)
    assert _read(LLAMA | {"sliding_window": 4096, "use_sliding_window": False}).sliding_window is None
    assert _read(LLAMA | {"sliding_window": 4096}).sliding_window == 4096


def test_latent_attention_with_and_without_query_rank() -> None:
    full = PUBLISHED["deepseek-ai/DeepSeek-V3"]
    assert _read(full).attention_modules[:2] == ("q_a_proj", "q_b_proj")
    assert _read(full | {"q_lora_rank": None}).attention_modules == ("q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")


def test_config_switches() -> None:
    assert _read(LLAMA | {"attention_bias": True}).o_bias
    glm = {key: value for key, value in LLAMA.items() if key != "model_type"} | {"model_type": "glm4"}
    assert _read(glm | {"attention_bias": True}).qkv_bias
    assert not _read(glm | {"attention_bias": True}).o_bias
    assert _read(LLAMA | {"torch_dtype": "float16"}).checkpoint_dtype == "fp16"
    assert _read(LLAMA | {"quantization_config": {"quant_method": "gptq"}}).checkpoint_dtype == "gptq"


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"num_attention_heads": 0}, ["num_attention_heads", "0"]),
        ({"hidden_size": 577}, ["hidden_size 577", "num_attention_heads 9"]),
        ({"num_key_value_heads": 4}, ["9", "4", "multiple"]),
        ({"vocab_size": -1}, ["vocab_size", "-1"]),
        ({"num_hidden_layers": 10**12}, ["num_hidden_layers", "1000000000000", "10000"]),
        ({"num_hidden_layers": 10**500}, ["num_hidden_layers", "bits"]),
        ({"hidden_size": "576"}, ["hidden_size", "'576'"]),
        ({"hidden_size": True}, ["hidden_size", "True"]),
        ({"hidden_size": float("nan")}, ["hidden_size", "nan"]),
        ({"hidden_size": 576.0}, ["hidden_size", "576.0"]),
        ({"hidden_size": None}, ["hidden_size is missing"]),
        ({"intermediate_size": {"a": 1}}, ["intermediate_size"]),
        ({"intermediate_size": None}, ["intermediate_size is missing"]),
        ({"tie_word_embeddings": "yes"}, ["tie_word_embeddings", "'yes'"]),
        ({"model_type": 7}, ["model_type", "7"]),
        ({"max_position_embeddings": "long"}, ["max_position_embeddings", "'long'"]),
        ({"num_experts": 8}, ["num_experts_per_tok is missing"]),
        ({"num_experts": 8, "num_experts_per_tok": 9}, ["9 experts per token"]),
        ({"kv_lora_rank": 512}, ["qk_nope_head_dim is missing"]),
        ({"head_dim": [64, -5]}, ["head_dim[1]", "-5"]),
        ({"model_type": "qwen", "intermediate_size": 1537}, ["1537", "odd"]),
    ],
)
def test_impossible_values_name_file_key_and_value(change: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        _read(LLAMA | change)
    assert str(caught.value).startswith("config.json: ")
    for part in parts:
        assert part in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (json.dumps(LLAMA).encode()[:-20], "truncated"),
        (b"[]", "holds list"),
        (b"null", "holds NoneType"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b'{"a": ' * 100_000, "not"),
        (b'{"hidden_size": ' + b"9" * 5000 + b"}", "not usable JSON"),
        (b" " * (5 << 20), "larger than"),
    ],
)
def test_files_that_are_no_config(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_json_object(file)
    assert "config.json" in str(caught.value)


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_keys = [
    *LLAMA,
    "text_config",
    "num_experts",
    "num_experts_per_tok",
    "kv_lora_rank",
    "head_dim",
    "layer_types",
    "sliding_window",
    "auto_map",
]
_types = st.sampled_from(sorted(architectures()))


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(_keys), _anything), _types)
def test_any_config_is_a_spec_or_an_input_error(change: dict[str, Any], model_type: str) -> None:
    try:
        spec, message = _read(LLAMA | {"model_type": model_type} | change), ""
    except InputError as error:
        spec, message = None, str(error)
    if spec is None:
        assert message.startswith("config.json: ")
    else:
        assert spec.total_params >= spec.active_params > 0
        assert spec.num_attention_heads % spec.num_kv_heads == 0


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=100) | st.text(alphabet='{}[]":,0-9eE.tfn \n', max_size=40).map(str.encode))
def test_any_bytes_parse_or_are_an_input_error(content: bytes) -> None:
    try:
        parsed, message = parse_json_object(content, "config.json"), ""
    except InputError as error:
        parsed, message = None, str(error)
    assert isinstance(parsed, dict) or message.startswith("config.json")
