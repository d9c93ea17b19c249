"""Memory that is there from the first step to the last: weights, quantisation constants, adapters, gradients, optimizer state. Bytes.

Derivation, per tensor, from what the libraries store:

    weights      4-bit: half a byte per element of every quantised linear layer; int8: one byte; the rest in the compute dtype
    constants    4-bit: one fp32 absmax per 64 elements; with double quantisation one uint8 instead, plus one fp32 per 256 of those and
                 one 256-entry code book (1 KiB) per layer; the 16-entry NF4/FP4 code book (64 bytes) and the offset (4 bytes) per layer;
                 int8: one fp32 per output row
    adapters     r (in + out) per adapted layer (LoRA), in the adapter dtype
    gradients    the dtype of the parameter
    optimizer    AdamW: two moments in the dtype of the parameter, and one fp32 step counter per tensor, kept on the CPU
                 when training on CUDA; 8-bit: one byte per moment and element from 4096 elements on, plus two fp32 absmax per 256

Source: bitsandbytes 0.50 functional.py (QuantState, quantize_4bit), torch.optim.AdamW, peft 0.21 tuners/lora.
Ignored: the padding of an odd number of 4-bit elements (1 byte), buffers of rotary embeddings (kilobytes).
"""

from __future__ import annotations

from dataclasses import dataclass

from ftadvise.estimator.layout import Layout, Linear
from ftadvise.estimator.recipe import DTYPE_BYTES, Recipe

_BLOCK = 64
_NESTED_BLOCK = 256
_CODE_BOOK_BYTES = 16 * 4
_NESTED_CODE_BOOK_BYTES = 256 * 4


@dataclass(frozen=True, slots=True)
class StaticMemory:
    """Bytes held during the whole training, and the elements trained."""

    weights: int
    quantization_constants: int
    adapters: int
    gradients: int
    optimizer_state: int
    trainable_parameters: int
    trainable_tensors: int


def static_memory(layout: Layout, recipe: Recipe, *, device: str, upcasts_kbit: bool = False) -> StaticMemory:
    """The static terms for one model and recipe; `device` is "cuda" or "cpu"."""
    layers = layout.spec.num_layers
    kept, quantised = _split_high_precision(layout, recipe)
    weights = constants = 0
    for linear in quantised:
        weights += layers * (linear.weight_elements if recipe.quantization == "int8" else (linear.weight_elements + 1) // 2)
        constants += layers * quantization_constant_bytes(linear, recipe)
    compute_bytes = DTYPE_BYTES[recipe.compute_dtype]
    unquantised = layers * sum(linear.weight_elements for linear in kept) + layout.expert_parameters
    # prepare_model_for_kbit_training casts whatever is not quantised to fp32
    other_bytes = 4 if upcasts_kbit and recipe.quantization != "none" else compute_bytes
    weights += compute_bytes * unquantised
    weights += other_bytes * (layout.embedding_parameters + layout.head_parameters + layout.small_parameters)

    trainable, tensors = trainable_parameters(layout, recipe)
    dtype_bytes = compute_bytes if recipe.method == "full" else DTYPE_BYTES[recipe.adapter_dtype]
    return StaticMemory(
        weights=weights,
        quantization_constants=constants,
        adapters=0 if recipe.method == "full" else trainable * dtype_bytes,
        gradients=trainable * dtype_bytes,
        optimizer_state=optimizer_bytes(recipe.optimizer, trainable, tensors, dtype_bytes, device=device),
        trainable_parameters=trainable,
        trainable_tensors=tensors,
    )


def quantization_constant_bytes(linear: Linear, recipe: Recipe) -> int:
    """Constants beside one quantised weight."""
    if recipe.quantization == "int8":
        return 4 * linear.out_features
    blocks = -(-linear.weight_elements // _BLOCK)
    if not recipe.double_quantization:
        return 4 * blocks + _CODE_BOOK_BYTES
    return blocks + 4 * -(-blocks // _NESTED_BLOCK) + _NESTED_CODE_BOOK_BYTES + _CODE_BOOK_BYTES + 4


def trainable_parameters(layout: Layout, recipe: Recipe) -> tuple[int, int]:
    """(elements, tensors) that the optimizer updates.

    LoRA: A is r x in, B is out x r. DoRA adds one magnitude per output row. IA3: one vector per adapted layer (on the input of `down`,
    else on the output). AdaLoRA starts at 1.5 r (peft's init_r 12 for target 8) with a diagonal. Prefix tuning: keys and values of 20
    virtual tokens per layer; prompt tuning: 20 embeddings; bottleneck adapter: two projections to r and back per layer.
    """
    if recipe.method == "full":
        tensors = layout.spec.num_layers * (len(layout.linears) + layout.norms_per_layer) + 2
        return layout.spec.total_params, tensors
    layers, h, r = layout.spec.num_layers, layout.spec.hidden_size, recipe.rank
    adapted = layout.adapted(recipe)
    if recipe.method in ("lora", "dora"):
        elements = sum(r * (x.in_features + x.out_features) for x in adapted)
        magnitudes = sum(x.out_features for x in adapted) if recipe.method == "dora" else 0
        return layers * (elements + magnitudes), layers * len(adapted) * (3 if recipe.method == "dora" else 2)
    if recipe.method == "adalora":
        start = r + r // 2
        return layers * sum(start * (x.in_features + x.out_features + 1) for x in adapted), layers * len(adapted) * 3
    if recipe.method == "ia3":
        return layers * sum(x.in_features if x.group == "down" else x.out_features for x in adapted), layers * len(adapted)
    if recipe.method == "prefix":
        return 20 * layers * 2 * layout.kv_width, 1
    if recipe.method == "prompt":
        return 20 * h, 1
    return layers * 2 * (2 * h * r + r + h), layers * 8


def optimizer_bytes(optimizer: str, elements: int, tensors: int, parameter_bytes: int, *, device: str) -> int:
    """State of the optimizer after its first step, on the training device."""
    counters = 4 * tensors if device == "cpu" else 0
    if optimizer in ("adamw_torch", "adamw_torch_fused"):
        return 2 * elements * parameter_bytes + (counters if optimizer == "adamw_torch" else 4 * tensors)
    if optimizer == "adafactor":
        # row and column statistics: far below a byte per element for matrices; sqrt(elements) per tensor is the exact order
        per_tensor = elements / max(1, tensors)
        return int(4 * tensors * 2 * per_tensor**0.5)
    if optimizer == "sgd":
        return 0
    moments = 1 if optimizer.startswith("lion") else 2
    if "8bit" in optimizer:
        return moments * (elements + 4 * -(-elements // 256)) + tensors * moments * _NESTED_CODE_BOOK_BYTES
    return moments * 4 * elements


def _split_high_precision(layout: Layout, recipe: Recipe) -> tuple[list[Linear], list[Linear]]:
    """(kept in the compute dtype, quantised)."""
    if recipe.quantization == "none":
        return list(layout.linears), []
    kept = [linear for linear in layout.linears if linear.name in recipe.high_precision_modules]
    return kept, [linear for linear in layout.linears if linear not in kept]
