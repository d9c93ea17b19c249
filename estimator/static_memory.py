"""Memory that is there from the first step to the last: weights, quantisation constants, adapters, gradients, optimizer state. Bytes.

Derivation, per tensor, from what the libraries store:

    weights      4-bit: half a byte per element of every quantised linear layer; int8: one byte; the rest in the parameters' dtype
    constants    4-bit: one fp32 absmax per 64 elements; with double quantisation one uint8 instead, plus one fp32 per 256 of those and
                 one 256-entry code book (1 KiB) per layer; the 16-entry NF4/FP4 code book (64 bytes) and the offset (4 bytes) per layer;
                 int8: one fp32 per output row
    adapters     the trained parameters that the tape met, in the adapter dtype
    gradients    the dtype of the parameter
    optimizer    optimizers.py

Which layers there are, which are quantised and which parameters are trained comes from the tape, which has walked the model; how many
parameters the model has in all comes from its card. Source: bitsandbytes 0.50 functional.py (QuantState, quantize_4bit).
Ignored: the padding of an odd number of 4-bit elements (1 byte), buffers of rotary embeddings (kilobytes).
"""

from __future__ import annotations

from dataclasses import dataclass

from ftadvise.estimator.estimate_types import Stack
from ftadvise.estimator.optimizers import OptimizerMemory, TrainedTensor, optimizer_memory
from ftadvise.estimator.recipe import DTYPE_BYTES, Recipe
from ftadvise.estimator.tape.build import StepProfile
from ftadvise.estimator.tape.context import LinearLayer, TrainedParameter
from ftadvise.estimator.tape.decoders import decoder_of
from ftadvise.estimator.tape.profile import QUANTITIES, Vector
from ftadvise.profiles.model_spec import ModelSpec

_BLOCK = 64
_NESTED_BLOCK = 256
_CODE_BOOK_BYTES = 16 * 4
_NESTED_CODE_BOOK_BYTES = 256 * 4
_AVERAGES = 2
"""AdaLoRA's sensitivity and uncertainty of each trained element (peft 0.21 tuners/adalora/layer.py, RankAllocator.update_ipt)."""


@dataclass(frozen=True, slots=True)
class StaticMemory:
    """Bytes held during the whole training, the elements trained, and what the optimizer takes in its step."""

    weights: int
    quantization_constants: int
    adapters: int
    gradients: int
    trained: tuple[TrainedTensor, ...]
    optimizer: OptimizerMemory

    @property
    def optimizer_state(self) -> int:
        """On the device: paged state counts while it is used."""
        return self.optimizer.state_bytes + self.optimizer.state_paged_bytes

    @property
    def trainable_parameters(self) -> int:
        """Elements that the optimizer updates."""
        return sum(tensor.elements * tensor.count for tensor in self.trained)


def static_memory(spec: ModelSpec, recipe: Recipe, stack: Stack, profile: StepProfile, values: Vector, *, device: str) -> StaticMemory:
    """The static terms; `values` are the recipe's quantities, `device` is "cuda" or "cpu"."""
    key = (recipe.rank, recipe.optimizer, recipe.double_quantization, device)
    found: StaticMemory | None = profile.static.get(key)
    if found is None:
        found = profile.static[key] = _static_memory(spec, recipe, stack, profile, values, device)
    return found


def _static_memory(spec: ModelSpec, recipe: Recipe, stack: Stack, profile: StepProfile, values: Vector, device: str) -> StaticMemory:
    quantized = [linear for linear in profile.linears if linear.quantized]
    upcast = stack.kbit_upcast if quantized else "none"
    full = recipe.method == "full"
    parameter = 4 if full and stack.full_dtype == "fp32" else DTYPE_BYTES[recipe.compute_dtype]
    elements = sum(linear.count * linear.weight_elements for linear in quantized)
    narrow = elements if recipe.quantization == "int8" else sum(each.count * ((each.weight_elements + 1) // 2) for each in quantized)
    rest = max(0, spec.total_params - elements)
    buffers = decoder_of(spec, stack.model_code).buffers(spec)
    norms = spec.hidden_size * (2 * spec.num_layers + 1) if upcast == "norms" else 0
    trained = trained_tensors(spec, profile, values, parameter, method=recipe.method)
    return StaticMemory(
        weights=narrow + rest * (4 if upcast == "all" else parameter) + norms * (4 - parameter) + buffers,
        quantization_constants=sum(each.count * quantization_constant_bytes(each, recipe) for each in quantized),
        adapters=0 if full else sum(tensor.size_bytes * tensor.count for tensor in trained),
        gradients=sum(tensor.size_bytes * tensor.count for tensor in trained),
        trained=trained,
        optimizer=optimizer_memory(recipe.optimizer, trained, device=device),
    )


def quantization_constant_bytes(linear: LinearLayer, recipe: Recipe) -> int:
    """Constants beside one quantised weight."""
    if recipe.quantization == "int8":
        return 4 * linear.out_features
    blocks = -(-linear.weight_elements // _BLOCK)
    if not recipe.double_quantization:
        return 4 * blocks + _CODE_BOOK_BYTES
    return blocks + 4 * -(-blocks // _NESTED_BLOCK) + _NESTED_CODE_BOOK_BYTES + _CODE_BOOK_BYTES + 4


def trained_tensors(
    spec: ModelSpec, profile: StepProfile, values: Vector, parameter_bytes: int, *, method: str
) -> tuple[TrainedTensor, ...]:
    """What the optimizer updates, in the order of the model. Full fine-tuning trains what the tape does not describe as well."""
    averages = _AVERAGES if method == "adalora" else 0
    tensors = [_tensor(parameter, times, values, averages) for parameter, times in profile.trained]
    met = sum(tensor.elements * tensor.count for tensor in tensors)
    if method == "full" and met < spec.total_params:
        tensors.append(TrainedTensor.of_shape((spec.total_params - met,), parameter_bytes))
    return tuple(tensors)


def _tensor(parameter: TrainedParameter, times: int, values: Vector, averages: int) -> TrainedTensor:
    rows = values[QUANTITIES.index(parameter.rows)]
    shape: tuple[int, ...] = (rows * parameter.width,)
    if parameter.columns:
        shape = (parameter.matrices, rows * parameter.width // parameter.columns // parameter.matrices, parameter.columns)
    elif parameter.rows != "one":
        shape = (rows, parameter.width)
    is_embedding = parameter.name.startswith(("embed_tokens", "embed_positions", "wpe", "prompt", "prefix"))
    return TrainedTensor.of_shape(shape, parameter.item, count=times, decays=len(shape) > 1, embedding=is_embedding, averages=averages)
