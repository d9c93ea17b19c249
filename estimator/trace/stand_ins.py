"""What else must be replaced on meta: operations that read values, and those that another device runs fused. Imports torch: import late."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from ftadvise.estimator.trace.attention import SCRATCH, sdpa_stand_in
from ftadvise.estimator.trace.emulation import Handler
from ftadvise.estimator.trace.losses import triton_patches


def handlers(device: str, compute_capability: tuple[int, int] | None) -> dict[Any, Handler]:
    """Stand-ins by the function of the torch API that they replace."""
    table: dict[Any, Handler] = {
        F.scaled_dot_product_attention: sdpa_stand_in(device, compute_capability),
        torch.Tensor.__getitem__: _getitem,
        torch.Tensor.masked_scatter: _masked_scatter,
    }
    if device == "cuda":
        table |= {F.dropout: _fused_dropout}
    return table


def scratch(device: str) -> dict[Any, Any]:
    """Bytes that kernels take and return inside one operation, by operation; the CPU's libraries take theirs outside PyTorch."""
    from ftadvise.estimator.trace.quantize import scratch as quantized

    return (SCRATCH if device == "cuda" else {}) | quantized(device)


def patches(device: str, *, masked: bool, packed: bool) -> ExitStack:
    """Enter to replace, in the libraries, decisions that depend on values, which meta tensors do not have.

    Args:
        masked: sequences of different length, so that attention gets a mask.
        packed: several sequences in one row, told apart by their positions.
    """
    from transformers import PreTrainedModel, masking_utils

    stack = ExitStack()

    def packed_sequences(position_ids: Any) -> Any:
        difference = torch.diff(position_ids, prepend=position_ids[:, :1] - 1, dim=-1)
        indices = (difference != 1).cumsum(-1)
        return indices if packed else None

    if hasattr(masking_utils, "fast_all"):
        stack.enter_context(mock.patch.object(masking_utils, "fast_all", lambda *_: not masked))  # noqa: PT008 - as in losses.py
    # looks for padding tokens among the ids, to warn
    stack.enter_context(mock.patch.object(PreTrainedModel, "warn_if_padding_and_no_attention_mask", lambda *_: None))  # noqa: PT008
    stack.enter_context(mock.patch.object(masking_utils, "find_packed_sequence_indices", packed_sequences))
    if device == "cuda":
        stack.enter_context(triton_patches())
    else:
        _int8_on_cpu(stack)
    return stack


def _int8_on_cpu(stack: ExitStack) -> None:
    """bitsandbytes trains int8 layers on a CPU by expanding the weight (autograd/_functions.py, matmul)."""
    try:
        import bitsandbytes
        from bitsandbytes.autograd._functions import MatMul8bitFp
    except ImportError:
        return

    def matmul(a: Any, b: Any, out: Any = None, state: Any = None, threshold: float = 0.0, bias: Any = None) -> Any:
        return MatMul8bitFp.apply(a, b, out, bias, state)

    stack.enter_context(mock.patch.object(bitsandbytes, "matmul", matmul))


def _fused_dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """CUDA drops out in one kernel that keeps a mask of one byte per element (aten native/Dropout.cpp)."""
    return torch.native_dropout(input, p, True)[0] if training and p > 0 else input


def _getitem(tensor: Any, index: Any) -> Any:
    """Selecting by a boolean mask: as if it were true everywhere, since a full batch is what is traced."""
    if not (isinstance(index, torch.Tensor) and index.dtype == torch.bool and index.device.type == "meta"):
        return tensor[index]
    positions = [torch.empty(index.numel(), dtype=torch.int64, device="meta") for _ in range(index.ndim)]
    return torch.ops.aten.index.Tensor(tensor, positions)


def _masked_scatter(tensor: Any, mask: Any, source: Any) -> Any:
    """The other way round: a copy of the source in the shape of the mask."""
    if tensor.device.type != "meta":
        return tensor.masked_scatter(mask, source)
    return source.reshape(mask.shape).clone()
