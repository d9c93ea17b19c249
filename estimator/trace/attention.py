"""Stand-ins for scaled dot-product attention and FlashAttention, with the memory of the kernel that would run. Imports torch.

The kernels themselves are PyTorch's own operators, called directly: on meta they allocate what they return (the output and one fp32
log-sum-exp per head and token), save q, k, v, output and log-sum-exp for backward, and return dq, dk, dv. What a CUDA kernel takes besides
and gives back before it returns is in `SCRATCH`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

_ATEN = torch.ops.aten
_HALF = (torch.float16, torch.bfloat16)


def sdpa_stand_in(device: str, compute_capability: tuple[int, int] | None) -> Any:
    """`F.scaled_dot_product_attention` as the dispatcher of `device` would run it."""
    modern = compute_capability is None or compute_capability >= (8, 0)

    def cuda(
        query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
        scale: float | None = None, enable_gqa: bool = False,
    ) -> Any:  # fmt: skip
        """Order and conditions: PyTorch aten/src/ATen/native/transformers/cuda/sdp_utils.cpp."""
        one_width = query.shape[-1] == key.shape[-1] == value.shape[-1]
        if query.dtype in _HALF and modern and attn_mask is None and one_width and query.shape[-1] <= 256:
            width = query.shape[-1]
            scale = width**-0.5 if scale is None else scale
            if width % 8:
                query, key, value = (F.pad(x, (0, 8 - width % 8)) for x in (query, key, value))
            out = _ATEN._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
            return out[..., :width] if width % 8 else out
        if query.shape[1] == key.shape[1]:
            bias = None
            if attn_mask is not None:
                bias = _additive(attn_mask, query.dtype)
                # rows are padded to a multiple of 16 elements and cut again, so that the kernel may read whole vectors
                if bias.shape[-1] % 16:
                    bias = F.pad(bias, (0, 16 - bias.shape[-1] % 16))[..., : key.shape[-2]]
                bias = bias.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
            return _ATEN._scaled_dot_product_efficient_attention(
                query, key, value, bias, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale
            )[0]
        return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)

    def cpu(
        query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
        scale: float | None = None, enable_gqa: bool = False,
    ) -> Any:  # fmt: skip
        """PyTorch aten/src/ATen/native/transformers/sdp_utils_cpp.cpp: flash unless there is dropout."""
        one_width = query.shape[-1] == key.shape[-1] == value.shape[-1]
        if dropout_p or not one_width:
            return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        mask = None if attn_mask is None else _additive(attn_mask, query.dtype)
        return _ATEN._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, is_causal, attn_mask=mask, scale=scale)[0]

    return cuda if device == "cuda" else cpu


def flash_attention_layer(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, dropout: float = 0.0, scaling: float | None = None, **_: Any
) -> tuple[Any, None]:
    """The package flash-attn behind transformers' attention interface; tensors (batch, heads, tokens, width).

    With a padding mask, transformers gathers the real tokens of q, k and v before the kernel and scatters the output after it
    (modeling_flash_attention_utils.py); the batch is taken as full, so the copies are as large as their sources.
    """
    if query.dtype == torch.float32:  # transformers casts to the autocast dtype, or to that of the weights
        target = torch.get_autocast_dtype("meta") if torch.is_autocast_enabled("meta") else torch.bfloat16
        query, key, value = query.to(target), key.to(target), value.to(target)
    positions = None
    if attention_mask is not None:
        every = torch.empty(key.shape[0] * key.shape[2], dtype=torch.int64, device=query.device)
        positions = every[: query.shape[0] * query.shape[2]]
        key, value, query = _gathered(key, every), _gathered(value, every), _gathered(query, positions)
    out = _ATEN._scaled_dot_product_flash_attention(
        query, key, value, dropout, True, False, scale=scaling if scaling is not None else query.shape[-1] ** -0.5
    )[0].transpose(1, 2)
    if positions is not None:
        tokens = out.reshape(-1, *out.shape[2:])
        out = _ATEN.index_put(torch.zeros_like(tokens), [positions], tokens).view(out.shape)
    return out, None


def _gathered(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """(batch, heads, tokens, width) with its real tokens picked out of all."""
    by_token = x.transpose(1, 2)
    return by_token.reshape(-1, *by_token.shape[2:])[positions].view(by_token.shape).transpose(1, 2)


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A boolean mask as the kernels want it: 0 where attention is allowed, minus infinity elsewhere."""
    if mask.dtype != torch.bool:
        return mask
    zero = torch.zeros((), dtype=dtype, device=mask.device)
    return torch.where(mask, zero, torch.full((), float("-inf"), dtype=dtype, device=mask.device))


def _rounded(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _flash_backward(args: Any, _out: Any) -> Iterable[int]:
    """flash_attn/flash_api.cpp, mha_bwd: softmax_d and dq_accum in fp32; for grouped heads dk and dv of every query head."""
    query, key = args[1], args[2]
    batch, heads, length, width = query.shape
    rows = _rounded(length, 128)
    yield 4 * batch * heads * rows
    yield 4 * batch * heads * rows * (_rounded(width, 32) if width <= 192 else 256)
    if key.shape[1] != heads:
        expanded = batch * key.shape[2] * heads * width * query.dtype.itemsize
        yield expanded
        yield expanded


def _efficient_backward(args: Any, _out: Any) -> Iterable[int]:
    """mem_eff_attention/kernel_backward.h: delta; half precision accumulates dq in fp32, fp32 makes delta from a full product."""
    query = args[1]
    batch, heads, length, width = query.shape
    yield 4 * batch * heads * length
    yield 4 * batch * heads * (_rounded(length, 64) * _rounded(width, 64) if query.dtype in _HALF else length * width)


SCRATCH = {
    _ATEN._scaled_dot_product_flash_attention_backward.default: _flash_backward,
    _ATEN._scaled_dot_product_efficient_attention_backward.default: _efficient_backward,
}
"""Bytes that CUDA kernels take and return inside one operation."""


def _by_token(func: Any, args: Any, kwargs: Any) -> Any:
    """The CPU's kernel lays its output out token by token (FlashAttentionKernel.cpp), on meta it would be as the query is."""
    out, logsumexp = func(*args, **kwargs)
    return torch.empty_permuted(out.shape, (0, 2, 1, 3), dtype=out.dtype, device=out.device), logsumexp


LAYOUTS = {_ATEN._scaled_dot_product_flash_attention_for_cpu.default: _by_token}
"""Operations whose result is laid out otherwise on meta."""
