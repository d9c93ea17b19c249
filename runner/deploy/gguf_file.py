"""A model folder as a GGUF file, written with the gguf package: Llama, Mistral, Qwen2 and Qwen3 models, one tensor at a time.

What llama.cpp expects beyond renaming (its convert_hf_to_gguf.py): rotary weights of Llama's queries and keys with the halves of each head
interleaved, vectors in fp32, Llama 3's frequency factors as a tensor. Everything that is not known here is refused by name; nothing is
left out. RAM: the largest matrix in fp32, twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftadvise.estimator.gguf_layout import gguf_file_type, tensor_bytes
from ftadvise.profiles.json_objects import read_json_object
from ftadvise.runner.deploy.gguf_tokenizer import NotConvertibleError, add_vocabulary, gguf_vocabulary

WRITABLE = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
"""What the gguf package quantises in numpy; in the 4- and 5-bit ones embedding and head stay in 8."""
_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
_BLOCK = 32
_TABLES = ("token_embd.weight", "output.weight")
_QUANTIZATION_VERSION = 2


def check_writable(folder: Path, kind: str) -> None:
    """Refuse what this writer does not know, without reading a weight.

    Raises:
        NotConvertibleError: names the architecture, setting or quantisation.
    """
    config = read_json_object(folder / "config.json")
    if kind not in WRITABLE:
        raise NotConvertibleError(f"{kind} needs llama.cpp's llama-quantize; the gguf package makes {', '.join(WRITABLE)}")
    model_type = config.get("model_type")
    if model_type not in _ARCHITECTURES:
        raise NotConvertibleError(f"models of type {model_type!r} are not converted here, only {', '.join(_ARCHITECTURES)} are")
    if config.get("use_sliding_window"):
        raise NotConvertibleError("use_sliding_window of this model has no place in its GGUF file")
    _rope(config)


def write_gguf(folder: Path, path: Path, kind: str, tokenizer: Any, *, name: str) -> None:
    """Write the model in `folder` (safetensors, 16 or 32 bits) into the GGUF file `path`.

    Raises:
        NotConvertibleError: as `check_writable`; or a tensor has no place in the file.
        OSError: the disk is full, or a file cannot be read.
    """
    import gguf

    check_writable(folder, kind)
    config = read_json_object(folder / "config.json")
    architecture = _ARCHITECTURES[config["model_type"]]
    vocabulary = gguf_vocabulary(tokenizer, int(config["vocab_size"]))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], int(config["num_hidden_layers"]))
    writer = gguf.GGUFWriter(None, architecture)
    _add_settings(writer, config, kind, name)
    add_vocabulary(writer, tokenizer, vocabulary)
    places = []
    for stored, shape, read in _tensors(folder):
        if stored.endswith("rotary_emb.inv_freq") or (stored == "lm_head.weight" and config.get("tie_word_embeddings")):
            continue
        target = names.get_name(stored, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise NotConvertibleError(f"the tensor {stored[:100]!r} has no place in a {architecture} GGUF file")
        gguf_type = _tensor_type(kind, target, shape)
        kinds = gguf.GGMLQuantizationType[gguf_type]
        writer.add_tensor_info(target, shape, _numpy_type(gguf_type), tensor_bytes(math.prod(shape), gguf_type), raw_dtype=kinds)
        places.append((target, kinds, read))
    factors = _frequency_factors(config)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for target, kinds, read in places:
            writer.write_tensor_data(_encoded(_rotated(read(), target, config), kinds))
        if factors is not None:
            writer.write_tensor_data(factors)
    finally:
        writer.close()


def _tensors(folder: Path) -> Iterator[tuple[str, tuple[int, ...], Any]]:
    """(name, shape, a function that reads it as fp32) of every tensor in the folder's safetensors files."""
    from safetensors import safe_open

    def reader(path: Path, name: str) -> Any:
        def read() -> Any:
            with safe_open(path, framework="pt") as file:
                return file.get_tensor(name).float().numpy()

        return read

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in sorted(file.keys()):
                yield name, tuple(file.get_slice(name).get_shape()), reader(path, name)


def _tensor_type(kind: str, target: str, shape: tuple[int, ...]) -> str:
    if len(shape) < 2:
        return "F32"
    base, _ = gguf_file_type(kind)
    if base in ("F32", "F16", "BF16"):
        return base
    if shape[-1] % _BLOCK:
        return "F16"
    return "Q8_0" if target in _TABLES else base


def _numpy_type(gguf_type: str) -> Any:
    """A type with which the writer takes the shape as elements; the real one is given beside it."""
    import numpy as np

    return np.dtype(np.float16 if gguf_type == "F16" else np.float32)


def _encoded(values: Any, kinds: Any) -> Any:
    import gguf
    import numpy as np

    if kinds == gguf.GGMLQuantizationType.F32:
        return np.ascontiguousarray(values, dtype=np.float32)
    if kinds == gguf.GGMLQuantizationType.F16:
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(values.astype(np.float16))
    return gguf.quants.quantize(np.ascontiguousarray(values), kinds)


def _rotated(values: Any, target: str, config: dict[str, Any]) -> Any:
    """Llama's queries and keys with each head's first and second half interleaved, as ggml's rotation of the "llama" kind reads them."""
    if _ARCHITECTURES[config["model_type"]] != "llama" or not any(part in target for part in (".attn_q.", ".attn_k.")):
        return values
    heads = int(config["num_attention_heads"])
    if ".attn_k." in target:
        heads = int(config.get("num_key_value_heads") or heads)
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _add_settings(writer: Any, config: dict[str, Any], kind: str, name: str) -> None:
    heads = int(config["num_attention_heads"])
    head_dim = _head_dim(config)
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(gguf_file_type(kind)[1])
    writer.add_quantization_version(_QUANTIZATION_VERSION)
    writer.add_vocab_size(int(config["vocab_size"]))
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    rope = _rope(config)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if rope["rope_type"] in ("linear", "yarn"):
        import gguf

        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(float(rope["factor"]))
        if rope["rope_type"] == "yarn":
            writer.add_rope_scaling_orig_ctx_len(int(rope["original_max_position_embeddings"]))


def _head_dim(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or int(config["hidden_size"]) // int(config["num_attention_heads"]))


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """The rotary settings, of transformers 5 (rope_parameters) or older (rope_scaling, rope_theta).

    Raises:
        NotConvertibleError: a kind of scaling that is not converted here.
    """
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    rope.setdefault("rope_type", rope.get("type", "default"))
    needed = {"default": (), "linear": ("factor",), "yarn": ("factor", "original_max_position_embeddings")}
    needed["llama3"] = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    kind = rope["rope_type"]
    if kind not in needed or any(key not in rope for key in needed[kind]) or rope.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise NotConvertibleError(f"rotary embeddings of type {str(kind)[:40]!r} as this model sets them are not converted here")
    return rope


def _frequency_factors(config: dict[str, Any]) -> Any:
    """By how much Llama 3 stretches the wavelength of each pair: none for short ones, `factor` for long ones, and smoothly between.

    Source: transformers modeling_rope_utils.py, _compute_llama3_parameters.
    """
    import numpy as np

    rope = _rope(config)
    if rope["rope_type"] != "llama3":
        return None
    width, low, high = _head_dim(config), float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    length, factor = float(rope["original_max_position_embeddings"]), float(rope["factor"])
    wavelengths = 2 * math.pi * float(rope["rope_theta"]) ** (np.arange(0, width, 2, dtype=np.float64) / width)
    smooth = np.clip((length / wavelengths - low) / (high - low), 0.0, 1.0)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)
