"""How many bytes a model's tensors take in a GGUF file, from the layout and from llama.cpp's choice of a type for each tensor.

    bytes of a tensor   rows x (columns / block elements) x block bytes
    type of a tensor    vectors (norms, biases) and routers stay F32; matrices have the file's type, except where the K mixtures keep more
                        bits (values, the last MLP layer, the head) and where the columns are no multiple of the block

A K mixture chooses by the tensor's role and by its place among the tensors of that role, so both are kept here. What is ignored: the
header (names, and the tokenizer: a few MiB) and the padding of each tensor to 32 bytes.
Source: llama_tensor_get_type_impl, tensor_type_fallback and tensor_allows_quantization in llama.cpp src/llama-quant.cpp (2026). Exact, to
the byte, for what the gguf package writes and to the published digits for what llama-quantize does (tests/estimator/test_gguf_layout.py).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftadvise.estimator.tape.context import LinearLayer
from ftadvise.profiles.errors import InputError, did_you_mean
from ftadvise.profiles.model_spec import ModelSpec
from ftadvise.profiles.yaml_store import load_yaml

_EIGHT_EXPERTS = 8
_LAYERS_OF_70B = 80
"""llama.cpp takes a model of 80 layers for a 70B one (llama-model.cpp), whose few values it keeps in 5 bits."""


@functools.cache
def inference_data() -> dict[str, Any]:
    """inference.yaml."""
    data: dict[str, Any] = load_yaml(Path(__file__).parent / "inference.yaml")
    return data


@dataclass(frozen=True, slots=True)
class Matrix:
    """`count` matrices of one role, each of `elements` in rows of `columns`; `layer` is the first of them."""

    role: str
    layer: int
    columns: int
    elements: int
    count: int = 1


def gguf_kinds() -> tuple[str, ...]:
    """The names of the quantisations of a whole file, as llama.cpp and people write them."""
    return tuple(inference_data()["gguf_files"]["kinds"])


def check_gguf_kind(kind: str) -> str:
    """The quantisation in lower case.

    Raises:
        InputError: there is none of this name.
    """
    known = gguf_kinds()
    if kind.lower() not in known:
        raise InputError(f"unknown GGUF quantisation {kind!r}", hint=did_you_mean(kind, known) or f"one of {', '.join(known)}")
    return kind.lower()


def gguf_file_type(kind: str) -> tuple[str, int]:
    """(type of most tensors, the number under general.file_type) of a quantisation."""
    name, number = inference_data()["gguf_files"]["kinds"][kind]
    return str(name), int(number)


def tensor_bytes(elements: int, gguf_type: str) -> int:
    """Bytes of so many elements, a multiple of the block's."""
    block, size = inference_data()["gguf_types"]["blocks"][gguf_type]
    return elements // int(block) * int(size)


def matrices_of(spec: ModelSpec, linears: Iterable[LinearLayer]) -> list[Matrix]:
    """Every matrix of the model: linear layers, routed experts, embedding and head."""
    found = []
    for linear in linears:
        if linear.layer >= 0:
            found.append(Matrix(_role(linear.name), linear.layer, linear.in_features, linear.weight_elements, linear.count))
    experts = spec.experts
    if experts is not None and experts.parameters:
        layers = max(1, spec.num_layers - experts.first_dense_layers)
        each = experts.parameters // layers // (3 if spec.mlp == "gated" else 2)
        widths = {"ffn_up": spec.hidden_size, "ffn_down": experts.intermediate_size}
        widths |= {"ffn_gate": spec.hidden_size} if spec.mlp == "gated" else {}
        found += [Matrix(role, experts.first_dense_layers, columns, each, layers) for role, columns in widths.items()]
    table = spec.vocab_size * spec.hidden_size
    found.append(Matrix("output" if spec.tie_word_embeddings else "token_embd", -1, spec.hidden_size, table))
    if not spec.tie_word_embeddings:
        found.append(Matrix("output", spec.num_layers, spec.hidden_size, table))
    return found


def gguf_bytes(spec: ModelSpec, linears: Iterable[LinearLayer], kind: str) -> int:
    """Bytes of all tensors of the model in a GGUF file of this quantisation.

    Raises:
        InputError: unknown quantisation.
    """
    kind = check_gguf_kind(kind)
    matrices = matrices_of(spec, linears)
    total = 4 * max(0, spec.total_params - sum(each.elements * each.count for each in matrices))  # vectors and routers
    by_role: dict[str, list[Matrix]] = {}
    for matrix in sorted(matrices, key=lambda each: each.layer):
        by_role.setdefault(matrix.role, []).extend([matrix] * matrix.count)
    for role, tensors in by_role.items():
        for index, matrix in enumerate(tensors):
            total += tensor_bytes(matrix.elements, tensor_type(spec, kind, role, index, len(tensors), matrix.columns))
    return total


def tensor_type(spec: ModelSpec, kind: str, role: str, index: int, count: int, columns: int) -> str:
    """The type of the matrix number `index` of `count` with this role, in a file of this quantisation.

    Args:
        role: "attn_v", "ffn_down", "output" ... ("output" also for an embedding that is the head, too).
        columns: the length of a row, which blocks must divide.
    """
    base, _ = gguf_file_type(kind)
    if base in ("F32", "F16", "BF16"):
        return base
    blocks = inference_data()["gguf_types"]["blocks"]
    chosen = _mixture(spec, kind, base, role, index, count)
    if role == "output":
        chosen = "Q8_0" if base == "Q8_0" or columns % blocks[base][0] else "Q6_K"
    if columns % blocks[chosen][0]:
        chosen = inference_data()["gguf_files"]["fallback"].get(chosen, "F16")
        if columns % blocks[chosen][0]:
            return "F16"
    return str(chosen)


def _mixture(spec: ModelSpec, kind: str, base: str, role: str, index: int, count: int) -> str:
    """llama.cpp's choice before it looks at the shape."""
    grouped = spec.num_attention_heads // max(1, spec.num_kv_heads) >= 4
    experts = spec.experts.num_experts if spec.experts else 0
    more = index < count // 8 or index >= 7 * count // 8 or (index - count // 8) % 3 == 2
    if role in ("attn_v", "attn_qkv", "attn_kv_b"):
        chosen = {
            "q2_k": "Q4_K" if grouped else "Q3_K",
            "q3_k_m": "Q5_K" if index < 2 else "Q4_K",
            "q3_k_l": "Q5_K",
            "q4_k_m": "Q6_K" if more else base,
            "q5_k_m": "Q6_K" if more else base,
            "q4_k_s": "Q5_K" if index < 4 else base,
        }.get(kind, base)
        if spec.num_layers == _LAYERS_OF_70B and chosen in ("Q3_K", "Q4_K"):
            chosen = "Q5_K"
        return "Q8_0" if experts == _EIGHT_EXPERTS else chosen
    if role == "attn_k":
        return "Q8_0" if experts == _EIGHT_EXPERTS else base
    if role == "ffn_down":
        return {
            "q2_k": "Q3_K",
            "q3_k_m": "Q5_K" if index < count // 16 else "Q4_K",
            "q3_k_l": "Q5_K",
            "q4_k_m": "Q6_K" if more else base,
            "q5_k_m": "Q6_K" if more else base,
            "q4_k_s": "Q5_K" if index < count // 8 else base,
        }.get(kind, base)
    if role == "attn_output":
        if experts == _EIGHT_EXPERTS:
            return "Q5_K" if kind in ("q2_k", "q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m") else base
        return {"q2_k": "Q3_K", "q3_k_m": "Q4_K", "q3_k_l": "Q5_K"}.get(kind, base)
    return base


def _role(name: str) -> str:
    names = inference_data()["gguf_roles"]["names"]
    last = name.rsplit(".", 1)[-1]
    two = ".".join(name.split(".")[-2:])
    return str(names.get(two) or names.get(last) or "other")
