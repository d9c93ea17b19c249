"""The header of a GGUF file: metadata and tensor shapes, never tensor data.

Layout (versions 2 and 3, little-endian): magic "GGUF", u32 version, u64 tensors, u64 entries; then the entries (string key, u32 type,
value) and the tensor infos (string name, u32 dimensions, u64 each, u32 type, u64 offset); a string is a u64 length and bytes. Source: the
GGUF specification in ggml (docs/gguf.md). Every length is checked against the file before it is followed.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ftadvise.profiles.architectures import architectures
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.model_config import spec_from_config
from ftadvise.profiles.model_spec import ModelSpec

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MAX_ENTRIES = 100_000
_MAX_ITEMS = 10_000_000
_MAX_NESTING = 4
_KEPT_ITEMS = 10_000
"""Longer arrays (tokens, merges, scores) are skipped and only counted."""
_KEPT_TEXT = 4096
_MAX_PARAMETERS = 10**15

_TENSOR_TYPES = {0: "fp32", 1: "fp16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 10: "q2_k", 11: "q3_k"}
_TENSOR_TYPES |= {12: "q4_k", 13: "q5_k", 14: "q6_k", 20: "iq4_nl", 23: "iq4_xs", 30: "bf16", 39: "mxfp4"}

_CONFIG_KEYS = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "sliding_window": "attention.sliding_window",
    "vocab_size": "vocab_size",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "n_shared_experts": "expert_shared_count",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    "first_k_dense_replace": "leading_dense_block_count",
    "kv_lora_rank": "attention.kv_lora_rank",
    "q_lora_rank": "attention.q_lora_rank",
    "qk_rope_head_dim": "rope.dimension_count",
    "v_head_dim": "attention.value_length",
}
"""Keys of config.json and the GGUF keys (after the architecture's name) with the same meaning."""


@dataclass(frozen=True, slots=True)
class SkippedArray:
    """An array too long to keep: how many items it has."""

    length: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a header says. `tensors` maps names to shapes (elements), `tensor_types` counts elements by type name."""

    metadata: dict[str, Any]
    tensors: dict[str, tuple[int, ...]]
    tensor_types: dict[str, int]

    @property
    def parameters(self) -> int:
        """Elements in all tensors but the precomputed rotary factors."""
        return sum(math.prod(shape) for name, shape in self.tensors.items() if not name.startswith("rope_f"))


def read_gguf_header(path: Path) -> GgufHeader:
    """The header of a GGUF file.

    Raises:
        InputError: unreadable, not GGUF, an unsupported version, truncated, or with impossible lengths.
    """
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise InputError(f"{path}: the file is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(data, path).header()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def spec_from_gguf(path: Path) -> ModelSpec:
    """The ModelSpec of the model in a GGUF file; `checkpoint_dtype` is the type that most elements have.

    Raises:
        InputError: as `read_gguf_header`; or the metadata does not describe a language model.
    """
    header = read_gguf_header(path)
    name = header.metadata.get("general.architecture")
    if not isinstance(name, str):
        raise InputError(f"{path}: general.architecture is missing; this GGUF file holds no language model")
    split = header.metadata.get("split.count", 1)
    spec = spec_from_config(
        _config(header, name),
        source=str(path),
        model_id=path.stem,
        stored_params=header.parameters if split in (0, 1) and header.parameters else None,
        origin="gguf",
        local_path=str(path),
    )
    if not header.tensor_types:
        return spec
    return replace(spec, checkpoint_dtype=max(header.tensor_types, key=lambda key: header.tensor_types[key]))


def _config(header: GgufHeader, name: str) -> dict[str, Any]:
    """The metadata in the words of a config.json."""
    model_type = next((key for key, known in architectures().items() if known.gguf_name == name), None)
    config: dict[str, Any] = {"model_type": model_type or name}
    for key, gguf_key in _CONFIG_KEYS.items():
        value = header.metadata.get(f"{name}.{gguf_key}")
        if isinstance(value, list):  # one number per layer; layers without attention have 0 heads
            value = max((item for item in value if isinstance(item, int)), default=None)
        if value is not None:
            config[key] = value
    experts = config.get("num_experts")
    if name == "llama" and isinstance(experts, int) and experts > 1:
        config["model_type"] = "mixtral"
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    embeddings = header.tensors.get("token_embd.weight")
    if embeddings and len(embeddings) == 2:
        config["vocab_size"] = embeddings[1]
    elif isinstance(tokens, (list, SkippedArray)):
        config["vocab_size"] = tokens.length if isinstance(tokens, SkippedArray) else len(tokens)
    if "kv_lora_rank" in config:
        # Files made for the absorbed form state the width of the latent in key_length and the head's width in key_length_mla.
        head_dim = header.metadata.get(f"{name}.attention.key_length_mla", config.get("head_dim"))
        config["v_head_dim"] = header.metadata.get(f"{name}.attention.value_length_mla", config.get("v_head_dim"))
        rope = config.get("qk_rope_head_dim")
        config["qk_nope_head_dim"] = head_dim - rope if isinstance(head_dim, int) and isinstance(rope, int) else None
    if header.tensors:
        config["tie_word_embeddings"] = "output.weight" not in header.tensors
        config["attention_bias"] = any(key.endswith(("attn_q.bias", "attn_qkv.bias")) for key in header.tensors)
        config["attention_out_bias"] = any(key.endswith("attn_output.bias") for key in header.tensors)
    return config


class _Reader:
    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data = data
        self._size = len(data)
        self._path = path
        self._at = 0
        self._items = 0

    def header(self) -> GgufHeader:
        if self._bytes(4) != b"GGUF":
            raise InputError(f"{self._path}: not a GGUF file (it does not start with the letters GGUF)")
        version = self._scalar("<I")
        if version not in (2, 3):
            raise InputError(f"{self._path}: GGUF version {version} is not supported (2 and 3 are)")
        tensors, entries = self._scalar("<Q"), self._scalar("<Q")
        if max(tensors, entries) > _MAX_ENTRIES:
            raise InputError(f"{self._path}: the header claims {tensors} tensors and {entries} entries, more than any model has")
        metadata = {self._text(): self._value(self._scalar("<I"), 0) for _ in range(entries)}
        shapes: dict[str, tuple[int, ...]] = {}
        types: Counter[str] = Counter()
        for _ in range(tensors):
            name, shape, kind = self._tensor()
            shapes[name] = shape
            types[_TENSOR_TYPES.get(kind, f"ggml_type_{kind}")] += math.prod(shape)
        return GgufHeader(metadata, shapes, dict(types))

    def _tensor(self) -> tuple[str, tuple[int, ...], int]:
        name = self._text()
        dimensions = self._scalar("<I")
        if dimensions > 8:
            raise InputError(f"{self._path}: tensor {name[:60]!r} claims {dimensions} dimensions")
        shape = tuple(self._scalar("<Q") for _ in range(dimensions))
        if math.prod(shape) > _MAX_PARAMETERS:
            raise InputError(f"{self._path}: tensor {name[:60]!r} claims an impossible shape")
        kind = self._scalar("<I")
        self._scalar("<Q")
        return name, shape, kind

    def _skip(self, count: int) -> None:
        left = self._size - self._at
        if count > left:
            raise InputError(f"{self._path}: truncated or corrupt at byte {self._at}: {count} bytes announced, {left} left")
        self._at += count

    def _bytes(self, count: int) -> bytes:
        start = self._at
        self._skip(count)
        return self._data[start : self._at]

    def _scalar(self, code: str) -> Any:
        return struct.unpack(code, self._bytes(struct.calcsize(code)))[0]

    def _text(self) -> str:
        return self._bytes(self._scalar("<Q")).decode("utf-8", "replace")

    def _value(self, kind: int, nesting: int) -> Any:
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        if kind == _STRING:
            return self._text()[:_KEPT_TEXT]
        if kind == _ARRAY:
            return self._array(nesting + 1)
        raise InputError(f"{self._path}: unknown metadata type {kind} at offset {self._at}")

    def _array(self, nesting: int) -> list[Any] | SkippedArray:
        if nesting > _MAX_NESTING:
            raise InputError(f"{self._path}: metadata arrays are nested too deeply")
        kind, length = self._scalar("<I"), self._scalar("<Q")
        self._items += length
        if self._items > _MAX_ITEMS:
            raise InputError(f"{self._path}: the metadata arrays claim more than {_MAX_ITEMS} items")
        if length <= _KEPT_ITEMS:
            return [self._value(kind, nesting) for _ in range(length)]
        if kind in _SCALARS:
            self._skip(length * struct.calcsize(_SCALARS[kind]))
        elif kind == _STRING:
            self._skip_texts(length)
        else:
            for _ in range(length):
                self._value(kind, nesting)
        return SkippedArray(length)

    def _skip_texts(self, count: int) -> None:
        """Steps over `count` strings; the one loop that is long (a vocabulary), so it stays free of calls."""
        data, at, last = self._data, self._at, self._size - 8
        unpack = struct.Struct("<Q").unpack_from
        for _ in range(count):
            if at > last:
                break
            at += 8 + unpack(data, at)[0]
        else:
            self._skip(at - self._at)
            return
        self._skip(self._size)  # more than is left: raises
