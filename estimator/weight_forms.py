"""How many bytes a model's weights take in each form in which it can be served. No torch.

    bf16, fp16, fp32   elements x 2 or 4
    int8               bitsandbytes: 1 byte for each element of a linear layer but the head, one fp32 per output row; the rest 16 bits
    nf4                bitsandbytes: half a byte, one fp32 per 64 elements (with the tables: static_memory.py); the rest 16 bits
    gptq               of each linear layer but the head: packed weights bits/8, for each group of input rows one fp16 scale and one packed
                       zero per output, one int32 per input row (g_idx); the rest 16 bits
    gguf:KIND          gguf_layout.py
    onnx, onnx-fp16    as fp32, fp16
    onnx-int8          onnxruntime's dynamic quantisation: 1 byte for each element of matrices (products and embedding), the rest fp32

Parameters that several layers share (a head that is the embedding) count once. Which linear layers there are comes from the tape.
Ignored: file headers, buffers (kilobytes). Sources: bitsandbytes 0.50 functional.py; GPTQModel's packed layer (inference.yaml);
onnxruntime.quantization.quantize_dynamic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ftadvise.estimator.gguf_layout import check_gguf_kind, gguf_bytes, inference_data
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.stack import stack_of
from ftadvise.estimator.static_memory import quantization_constant_bytes
from ftadvise.estimator.tape.build import Setting, step_profile
from ftadvise.estimator.tape.context import LinearLayer
from ftadvise.estimator.tape.decoders import is_described
from ftadvise.profiles.errors import InputError, did_you_mean
from ftadvise.profiles.model_spec import ModelSpec

Sureness = Literal["exact", "derived", "rough"]
"""exact: to the byte from the layout; derived: by a formula of what the code allocates; rough: the order of magnitude."""

FORMS = ("bf16", "fp16", "fp32", "int8", "nf4", "gptq", "onnx", "onnx-fp16", "onnx-int8")
"""Beside them "gguf:KIND" for every quantisation of gguf_layout.gguf_kinds."""
_PLAIN = {"bf16": 2, "fp16": 2, "fp32": 4, "onnx": 4, "onnx-fp16": 2}
_LEFT_SHARE = 0.02
"""Parameters outside matrices; where they are more, some of the model's layers are not described."""


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """Bytes of the weights and of the constants that quantisation needs beside them."""

    weights: int
    constants: int
    sureness: Sureness

    @property
    def total(self) -> int:
        """Both."""
        return self.weights + self.constants


def check_form(form: str) -> str:
    """The form as it is written here.

    Raises:
        InputError: there is none of this name.
    """
    head, _, kind = form.partition(":")
    if head == "gguf":
        return f"gguf:{check_gguf_kind(kind)}"
    if form not in FORMS:
        raise InputError(f"unknown form {form!r} of the weights", hint=did_you_mean(form, FORMS) or f"one of {', '.join(FORMS)}, gguf:KIND")
    return form


def linear_layers(spec: ModelSpec) -> tuple[LinearLayer, ...]:
    """Every linear layer of the model but the head and routers, as transformers builds it; `count` over layers that are alike.

    Routed experts that are one stacked parameter per layer are not among them: `spec.experts.parameters` counts those.
    """
    setting = Setting("flash", masked=False, single=True, like_cuda=True)
    linears = step_profile(spec, Recipe(quantization="nf4", dropout=0.0), stack_of(), setting).linears
    return tuple(linear for linear in linears if linear.layer >= 0)


def weight_bytes(spec: ModelSpec, form: str, *, double_quantization: bool = False) -> WeightBytes:
    """Bytes of the model's weights in a form.

    Raises:
        InputError: unknown form.
    """
    form = check_form(form)
    sureness: Sureness = "exact" if is_described(spec) else "rough"
    if form in _PLAIN:
        return WeightBytes(spec.total_params * _PLAIN[form], 0, "exact")
    linears = linear_layers(spec)
    if form.startswith("gguf:"):
        return WeightBytes(gguf_bytes(spec, linears, form[5:]), 0, _surer(spec, linears, sureness))
    if form in ("int8", "nf4"):
        quantized = [linear for linear in linears if linear.quantized]
        elements = sum(each.count * each.weight_elements for each in quantized)
        recipe = Recipe(quantization="int8" if form == "int8" else "nf4", double_quantization=double_quantization and form == "nf4")
        narrow = elements if form == "int8" else sum(each.count * ((each.weight_elements + 1) // 2) for each in quantized)
        constants = sum(each.count * quantization_constant_bytes(each, recipe) for each in quantized)
        return WeightBytes(narrow + 2 * (spec.total_params - elements), constants, sureness)
    if form == "gptq":
        return _gptq(spec, linears, "derived" if sureness == "exact" else sureness)
    matrices = _matrix_elements(spec, linears)
    return WeightBytes(matrices + 4 * max(0, spec.total_params - matrices), 0, "derived" if sureness == "exact" else sureness)


def _gptq(spec: ModelSpec, linears: Sequence[LinearLayer], sureness: Sureness) -> WeightBytes:
    settings = inference_data()["gptq"]
    bits, group = int(settings["bits"]), int(settings["group_size"])
    packed = constants = elements = 0
    shapes = [(each.in_features, each.out_features, each.count) for each in linears] + _expert_shapes(spec)
    for inputs, outputs, count in shapes:
        groups = -(-inputs // group)
        elements += count * inputs * outputs
        packed += count * inputs * outputs * bits // 8
        constants += count * (groups * outputs * 2 + groups * outputs * bits // 8 + inputs * 4)
    return WeightBytes(packed + 2 * max(0, spec.total_params - elements), constants, sureness)


def _expert_shapes(spec: ModelSpec) -> list[tuple[int, int, int]]:
    """(inputs, outputs, how many) of the matrices of routed experts."""
    experts = spec.experts
    if experts is None or not experts.parameters:
        return []
    wide, narrow = experts.intermediate_size, spec.hidden_size
    matrices = experts.parameters // (wide * narrow)
    down = matrices // (3 if spec.mlp == "gated" else 2)
    return [(narrow, wide, matrices - down), (wide, narrow, down)]


def _matrix_elements(spec: ModelSpec, linears: Sequence[LinearLayer]) -> int:
    tables = spec.vocab_size * spec.hidden_size * (1 if spec.tie_word_embeddings else 2)
    experts = spec.experts.parameters if spec.experts else 0
    return sum(each.count * each.weight_elements for each in linears) + tables + experts


def _surer(spec: ModelSpec, linears: Sequence[LinearLayer], sureness: Sureness) -> Sureness:
    left = spec.total_params - _matrix_elements(spec, linears)
    return sureness if 0 <= left <= _LEFT_SHARE * spec.total_params else "rough"
