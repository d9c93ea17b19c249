"""What a model takes to answer: weights in each form, the KV cache, activations, the runtime; one base with many adapters beside copies.

    KV cache       tokens x layers x 2 x key/value heads x head width x bytes; of MLA one latent and one rotary key; a layer with a sliding
                   window keeps no more than the window, where the runtime knows it; layers without attention keep nothing per token
    activations    transformers, onnxruntime: the widest moment of reading all prompts at once: residual stream, normed input, and the MLP's
                   gate, up and product (or queries, keys, values and output), and 16-bit and fp32 logits of the last token
                   llama.cpp: its compute buffer, fp32 logits and hidden states of one ubatch
                   vLLM: as transformers for the tokens of one scheduler step, with the logits of every running sequence
    context        of CUDA, what allocator.yaml has for training; on the CPU the process

Attention's scores are not there: every runtime has a kernel that never writes them. Sources in inference.yaml and allocator.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ftadvise.estimator.device_memory import context_bytes
from ftadvise.estimator.gguf_layout import inference_data
from ftadvise.estimator.tape.decoders import decoder_of
from ftadvise.estimator.weight_forms import Sureness, check_form, linear_layers, weight_bytes
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.model_spec import ModelSpec

Runtime = Literal["transformers", "vllm", "llama.cpp", "onnxruntime"]
_NO_CACHE = frozenset("LMCE-")
"""Letters of ModelSpec.layer_pattern whose layers keep nothing that grows with the sequence."""
_IN_THE_FIGURES = frozenset({"sliding_window", "mla"})
"""Of ModelSpec.special, what the KV cache counts."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What is asked of the server: `context_tokens` of each of `concurrent` sequences, prompt and answer together."""

    context_tokens: int = 4096
    concurrent: int = 1
    kv_item_bytes: int = 2

    def __post_init__(self) -> None:
        for name in ("context_tokens", "concurrent", "kv_item_bytes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of one component, and how sure they are."""

    name: Literal["weights", "quantization_constants", "kv_cache", "activations", "adapters", "context"]
    size_bytes: int
    sureness: Sureness


@dataclass(frozen=True, slots=True)
class InferenceMemory:
    """What serving takes on one device."""

    form: str
    runtime: Runtime
    parts: tuple[Part, ...]
    kv_bytes_per_token: int
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def total_bytes(self) -> int:
        """All parts."""
        return sum(part.size_bytes for part in self.parts)

    def part(self, name: str) -> int:
        """Bytes of one component."""
        return sum(part.size_bytes for part in self.parts if part.name == name)

    def to_json(self) -> dict[str, Any]:
        """The document of one form."""
        return {
            "form": self.form,
            "runtime": self.runtime,
            "basis": "derived",
            "total_bytes": self.total_bytes,
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "components": {part.name: part.size_bytes for part in self.parts},
            "sureness": {part.name: part.sureness for part in self.parts},
            "notes": list(self.notes),
        }


def runtime_of(form: str) -> Runtime:
    """What serves this form when nothing else is said."""
    if form.startswith("gguf:"):
        return "llama.cpp"
    if form.startswith("onnx"):
        return "onnxruntime"
    return "vllm" if form == "gptq" else "transformers"


def inference_memory(
    spec: ModelSpec, form: str, serving: Serving, *, runtime: Runtime | None = None, gpu_bytes: int | None = None, on_cpu: bool = False
) -> InferenceMemory:
    """What one copy of the model takes in this form.

    Args:
        runtime: what serves it; by default what usually does.
        gpu_bytes: the size of the card, by which vLLM chooses how many tokens a step has.
        on_cpu: no CUDA context.

    Raises:
        InputError: unknown form.
    """
    form = check_form(form)
    runtime = runtime or runtime_of(form)
    weights = weight_bytes(spec, form)
    cache = kv_cache_bytes(spec, serving, runtime=runtime)
    unknown = bool(set(spec.special) - _IN_THE_FIGURES)
    parts = [Part("weights", weights.weights, weights.sureness)]
    if weights.constants:
        parts.append(Part("quantization_constants", weights.constants, weights.sureness))
    parts += [
        Part("kv_cache", cache, "derived" if unknown else "exact"),
        Part("activations", activation_bytes(spec, form, serving, runtime=runtime, gpu_bytes=gpu_bytes), "derived"),
        Part("context", 0 if on_cpu else context_bytes(), "rough"),
    ]
    notes = []
    if unknown:
        notes.append("the state of layers without attention, and what is not text, are not in the figures")
    if runtime == "vllm" and not on_cpu:
        notes.append("vLLM takes gpu_memory_utilization of the card at once; what is left of that holds more KV cache")
    per_token = kv_cache_bytes(spec, Serving(1, 1, serving.kv_item_bytes), runtime=runtime)
    return InferenceMemory(form, runtime, tuple(parts), per_token, tuple(notes))


def kv_cache_bytes(spec: ModelSpec, serving: Serving, *, runtime: Runtime = "transformers") -> int:
    """Bytes of keys and values of all sequences at their full length."""
    tokens = serving.context_tokens
    window = spec.sliding_window
    if runtime == "llama.cpp" and spec.model_type not in inference_data()["llama_cpp"]["windowed"]:
        window = None
    width = spec.mla.kv_lora_rank + spec.mla.qk_rope_head_dim if spec.mla else 2 * spec.num_kv_heads * spec.head_dim
    kept = sum(min(tokens, window) if window and kind == "sliding" else tokens for kind in _attention_layers(spec))
    return serving.concurrent * kept * width * serving.kv_item_bytes


def activation_bytes(spec: ModelSpec, form: str, serving: Serving, *, runtime: Runtime, gpu_bytes: int | None = None) -> int:
    """Bytes of what comes and goes while the prompts are read; see the module's docstring."""
    data = inference_data()
    if runtime == "llama.cpp":
        return int(min(data["llama_cpp"]["ubatch_tokens"], serving.context_tokens)) * 4 * (spec.vocab_size + spec.hidden_size)
    tokens, item = serving.concurrent * serving.context_tokens, 4 if form in ("fp32", "onnx", "onnx-int8") else 2
    if runtime == "vllm":
        large = gpu_bytes is not None and gpu_bytes >= data["vllm"]["large_gpu_bytes"]
        tokens = int(data["vllm"]["batched_tokens_large_gpu" if large else "batched_tokens"])
    experts = spec.experts
    wide = spec.intermediate_size
    if experts is not None:
        wide = max(wide, experts.experts_per_token * experts.intermediate_size + experts.shared_intermediate_size)
    mlp = (3 if spec.mlp == "gated" else 2) * wide
    queries, keys = spec.num_attention_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    widest = 2 * spec.hidden_size + max(mlp, 2 * queries + 2 * keys)
    copied = max(2 * spec.hidden_size * spec.intermediate_size, 0) if form in ("nf4", "int8") else 0  # one layer as 16 bits for its product
    return tokens * item * widest + serving.concurrent * spec.vocab_size * (item + 4) + copied


def _attention_layers(spec: ModelSpec) -> list[str]:
    """ "sliding" or "full" for each layer that keeps keys and values."""
    if spec.layer_pattern:
        return ["sliding" if letter == "S" else "full" for letter in spec.layer_pattern if letter not in _NO_CACHE]
    decoder = decoder_of(spec)
    everywhere = decoder.masks == ("sliding",) and spec.sliding_window is not None
    kinds = [decoder.kind(spec, index) for index in range(spec.num_layers)]
    return ["sliding" if everywhere or kind == "sliding" else "full" for kind in kinds if kind != "convolution"]


def slot_bytes(spec: ModelSpec, rank: int) -> int:
    """Bytes of one of vLLM's adapter slots: A and B of the rank for every linear layer, whatever the adapter targets, 16 bits.

    Models whose class lists embeddings get room for adapters of embedding and head as well (inference.yaml).
    """
    widths = sum(each.count * (each.in_features + each.out_features) for each in linear_layers(spec))
    if spec.model_type in inference_data()["vllm"]["embedding_slots"]:
        widths += 2 * (spec.vocab_size + spec.hidden_size)
    return 2 * vllm_rank(rank) * widths


def vllm_rank(rank: int) -> int:
    """The smallest --max-lora-rank of vLLM that holds this rank.

    Raises:
        InputError: the rank is above the largest.
    """
    ranks = [int(each) for each in inference_data()["vllm"]["lora_ranks"]]
    found = next((each for each in ranks if each >= rank), None)
    if found is None:
        raise InputError(f"rank {rank} is above vLLM's largest LoRA rank {ranks[-1]}", hint="serve the merged model")
    return found
