"""Makes operations on the meta device behave as on the device that is traced: autocast, and stand-ins for decomposed kernels.

PyTorch has no autocast for meta tensors, and chooses on meta the decomposed form of operations that have one fused kernel elsewhere.
`Emulation` is a function mode that sees every call of the torch API before autograd does, casts as autocast would and calls the stand-in
where there is one. Imports torch: import this module late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch.overrides import TorchFunctionMode

Handler = Callable[..., Any]

_TENSOR = torch.Tensor
# The lists of torch/csrc/autograd/autocast_mode (aten/src/ATen/autocast_mode.h), by the names under which the Python API calls them.
_LOWER_PRECISION = frozenset(
    {
        F.linear, torch.matmul, _TENSOR.matmul, _TENSOR.__matmul__, _TENSOR.__rmatmul__, torch.mm, _TENSOR.mm, torch.bmm, _TENSOR.bmm,
        torch.addmm, _TENSOR.addmm, torch.baddbmm, _TENSOR.baddbmm, torch.addbmm, torch.einsum, torch.conv1d, F.conv1d, F.conv2d, F.conv3d,
        torch.conv2d, F.scaled_dot_product_attention, torch.chain_matmul,
    }
)  # fmt: skip
_FP32_ON_CUDA = frozenset(
    {
        torch.softmax, _TENSOR.softmax, F.softmax, torch.log_softmax, _TENSOR.log_softmax, F.log_softmax, F.layer_norm, torch.layer_norm,
        F.group_norm, torch.exp, _TENSOR.exp, torch.log, _TENSOR.log, torch.log1p, torch.pow, _TENSOR.pow, _TENSOR.__pow__, torch.rsqrt,
        _TENSOR.rsqrt, torch.reciprocal, _TENSOR.reciprocal, F.softplus, torch.sum, _TENSOR.sum, torch.cumsum, _TENSOR.cumsum, torch.prod,
        torch.cumprod, torch.norm, _TENSOR.norm, F.nll_loss, F.mse_loss, F.cross_entropy, torch.logsumexp, F.cosine_similarity,
        F.binary_cross_entropy_with_logits, torch.expm1, torch.sinh, torch.cosh, torch.tan,
    }
)  # fmt: skip
_KEEPS_AN_EXPLICIT_DTYPE = frozenset(
    {
        torch.softmax, _TENSOR.softmax, F.softmax, torch.log_softmax, _TENSOR.log_softmax, F.log_softmax, torch.sum, _TENSOR.sum,
        torch.cumsum, _TENSOR.cumsum, torch.prod, torch.cumprod,
    }
)  # fmt: skip
_HALF = (torch.float16, torch.bfloat16)


class Emulation(TorchFunctionMode):  # type: ignore[misc]
    """Emulates "cuda" or "cpu" on meta tensors for the length of a `with` block.

    Args:
        device: what is emulated.
        autocast_dtype: the dtype of `autocast()`; None when the training code does not use it.
        handlers: stand-ins by the function of the torch API that they replace.
    """

    def __init__(self, device: str, autocast_dtype: torch.dtype | None, handlers: dict[Any, Handler]) -> None:
        super().__init__()
        self.device = device
        self.enabled = False
        self._dtype = autocast_dtype
        self._handlers = handlers
        self._cache: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._depth = 0
        self._patches = ExitStack()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.enabled:
            if func in _LOWER_PRECISION:
                assert self._dtype is not None  # noqa: S101 - narrows the type; enabled only with one
                args, kwargs = self._cast(args, kwargs, self._dtype)
            elif self.device == "cuda" and func in _FP32_ON_CUDA and (func not in _KEEPS_AN_EXPLICIT_DTYPE or kwargs.get("dtype") is None):
                args, kwargs = self._cast(args, kwargs, torch.float32)
        handler = self._handlers.get(func)
        return func(*args, **kwargs) if handler is None else handler(*args, **kwargs)

    @contextmanager
    def autocast(self, enabled: bool = True) -> Iterator[None]:
        """What `torch.autocast` does: casts inside, and copies of weights kept until the outermost block ends."""
        before, self.enabled = self.enabled, enabled and self._dtype is not None
        self._depth += 1
        try:
            yield
        finally:
            self.enabled = before
            self._depth -= 1
            if self._depth == 0:
                self._cache.clear()

    def checkpoint(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """torch's `checkpoint` of a function that is recomputed under the autocast of its forward pass, with copies of its own."""
        from torch.utils.checkpoint import checkpoint

        enabled = self.enabled

        def under_autocast(*inner: Any, **keywords: Any) -> Any:
            with self.autocast(enabled):
                return function(*inner, **keywords)

        return checkpoint(under_autocast, *args, **kwargs)

    def __enter__(self) -> Emulation:
        """Besides the mode, answer the libraries' questions about autocast on meta."""
        entered: Emulation = super().__enter__()
        originals = torch.is_autocast_enabled, torch.get_autocast_dtype, torch.autocast

        def is_enabled(device_type: str | None = None) -> bool:
            if device_type == "meta" or (device_type in (None, "cuda") and self.device == "cuda"):
                return self.enabled
            return bool(originals[0]() if device_type is None else originals[0](device_type))

        def dtype_of(device_type: str) -> Any:
            return self._dtype if device_type == "meta" else originals[1](device_type)

        def autocast(device_type: str, *args: Any, enabled: bool = True, **kwargs: Any) -> Any:
            return self.autocast(enabled) if device_type == "meta" else originals[2](device_type, *args, enabled=enabled, **kwargs)

        for name, replacement in (("is_autocast_enabled", is_enabled), ("get_autocast_dtype", dtype_of), ("autocast", autocast)):
            self._patches.enter_context(mock.patch.object(torch, name, replacement))
        return entered

    def __exit__(self, *exc_info: Any) -> None:
        """Undo all of it."""
        self._patches.close()
        super().__exit__(*exc_info)

    def _cast(self, args: Any, kwargs: Any, dtype: torch.dtype) -> tuple[Any, Any]:
        def cast(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return self._cast_tensor(value, dtype)
            if isinstance(value, (list, tuple)) and value and isinstance(value[0], torch.Tensor):
                return type(value)(cast(item) for item in value)
            return value

        return tuple(cast(value) for value in args), {name: cast(value) for name, value in kwargs.items()}

    def _cast_tensor(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if tensor.dtype == dtype or tensor.dtype not in (*_HALF, torch.float32):
            return tensor
        if dtype == torch.float32 or not (tensor.is_leaf and tensor.requires_grad and tensor.dtype == torch.float32) or tensor._is_view():
            return tensor.to(dtype)
        cached = self._cache.get(id(tensor))
        if cached is None:
            cached = self._cache[id(tensor)] = (tensor, tensor.to(dtype))
        return cached[1]
