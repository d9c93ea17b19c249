"""bitsandbytes layers on the meta device, with storages of the sizes that quantisation makes. Imports torch: import late."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from ftadvise.estimator.recipe import Recipe

_BLOCK = 64
_NESTED_BLOCK = 256


def quantize(model: Any, recipe: Recipe, compute_dtype: torch.dtype) -> None:
    """Replace the linear layers of `model` (on meta) as transformers does when it loads with a BitsAndBytesConfig.

    transformers chooses the layers: all but the output head, and what the recipe keeps in high precision. Fused 3-D expert parameters
    are no linear layers and stay as they are.
    """
    from transformers import BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.base import HfQuantizer

    if recipe.quantization == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)  # outlier columns depend on values
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=recipe.quantization,
            bnb_4bit_use_double_quant=recipe.double_quantization,
            bnb_4bit_compute_dtype=compute_dtype,
        )
    keep = HfQuantizer.get_modules_to_not_convert(
        model, list(recipe.high_precision_modules) or None, model._keep_in_fp32_modules, add_default_skips=True
    )
    replace_with_bnb_linear(model, modules_to_not_convert=keep, quantization_config=config)
    for module in model.modules():
        kind = type(module).__name__
        if kind == "Linear4bit":
            _pack_4bit(module, recipe, compute_dtype)
        elif kind == "Linear8bitLt":
            _pack_8bit(module)
        if getattr(module, "bias", None) is not None and kind in ("Linear4bit", "Linear8bitLt"):
            module.bias.data = module.bias.data.to(compute_dtype)
    model.config.quantization_config = config
    model.is_quantized = True
    model.is_loaded_in_4bit = recipe.quantization != "int8"
    model.is_loaded_in_8bit = recipe.quantization == "int8"
    from transformers.utils.quantization_config import QuantizationMethod

    model.quantization_method = QuantizationMethod.BITS_AND_BYTES


def _pack_4bit(module: Any, recipe: Recipe, dtype: torch.dtype) -> None:
    """Half a byte per weight; one fp32 absmax per 64 weights, or with double quantisation one byte, and fp32 per 256 of those.

    Source: bitsandbytes functional.py, quantize_4bit and quantize_blockwise. The code table of the data type is one per layer.
    """
    from bitsandbytes.functional import QuantState

    weight = module.weight
    shape, count = weight.shape, weight.numel()
    blocks = -(-count // _BLOCK)

    def empty(size: int, kind: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(size, dtype=kind, device="meta")

    nested = None
    if recipe.double_quantization:
        nested = QuantState(
            absmax=empty(-(-blocks // _NESTED_BLOCK)), shape=None, code=empty(256), blocksize=_NESTED_BLOCK, dtype=torch.float32
        )
    state = QuantState(
        absmax=empty(blocks, torch.uint8 if nested else torch.float32),
        shape=shape,
        code=empty(16),
        blocksize=_BLOCK,
        quant_type=recipe.quantization,
        dtype=dtype,
        offset=torch.empty((), dtype=torch.float32, device="meta") if nested else None,
        state2=nested,
    )
    weight.data = empty(-(-count // 2), torch.uint8).view(-1, 1)
    weight.quant_state, weight.bnb_quantized = state, True
    module.quant_state = state
    module.support_avx512bf16_for_cpu = False


def _pack_8bit(module: Any) -> None:
    """One byte per weight and one fp32 scale per row, as Int8Params leaves them."""
    weight = module.weight
    weight.data = torch.empty(weight.shape, dtype=torch.int8, device="meta")
    weight.CB, weight.SCB = weight.data, torch.empty(weight.shape[0], dtype=torch.float32, device="meta")
    weight.has_fp16_weights = False


def constants_of(parameter: Any) -> Iterator[torch.Tensor]:
    """The tensors that bitsandbytes keeps beside a quantised weight."""
    state = getattr(parameter, "quant_state", None)
    for part in (state, getattr(state, "state2", None)):
        if part is not None:
            yield from (
                value for value in (getattr(part, name, None) for name in ("absmax", "code", "offset")) if isinstance(value, torch.Tensor)
            )
    scale = getattr(parameter, "SCB", None)
    if isinstance(scale, torch.Tensor):
        yield scale


def _gemm_4bit(args: Any, _out: Any) -> Iterable[int]:
    """bitsandbytes >= 0.49 backends/cuda/ops.py: from about 1,500 tokens on, the weight is expanded for a plain product.

    Its absmax is expanded first when it is quantised itself, and freed when the weight is there.
    """
    activations, shape, absmax_8bit = args[0], args[2], args[7] if len(args) > 7 else None
    if absmax_8bit is not None:
        yield 4 * absmax_8bit.numel()
    yield shape[0] * shape[1] * activations.dtype.itemsize


def _int8_product(args: Any, out: Any) -> Iterable[int]:
    """bitsandbytes backends/default/ops.py, backends/cuda/ops.py: the product in int32, scaled to fp16 and cast to what is wanted."""
    rows, weight = args[0], args[1]
    elements = (rows.numel() // rows.shape[-1]) * weight.shape[0]
    yield 4 * elements
    if out.dtype != torch.float16:
        yield 2 * elements


def _int8_outliers(args: Any, _out: Any) -> Iterable[int]:
    """bitsandbytes backends/cuda/ops.py: with a threshold, as transformers sets one, magnitudes and what is above it."""
    yield args[0].nbytes
    yield args[0].numel()


def scratch(device: str) -> dict[Any, Any]:
    """Bytes that bitsandbytes' kernels take and return inside one operation."""
    import bitsandbytes  # noqa: F401 - registers its operators

    operators = torch.ops.bitsandbytes
    table = (
        {}
        if device == "cpu"
        else {operators.int8_scaled_mm.default: _int8_product, operators.int8_vectorwise_quant.default: _int8_outliers}
    )
    if hasattr(operators, "gemm_4bit"):
        table[operators.gemm_4bit.default] = _gemm_4bit
    return table
