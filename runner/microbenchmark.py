"""The micro-benchmark behind `ftadvise calibrate`: one function for each figure of `Rates`. Imports torch inside functions.

Figures are medians of repeated, warmed-up calls. They are counted as the step-time model counts its work (estimator/tape/work.py): an
element-wise operation reads as much as it writes, or twice as much when two tensors meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from ftadvise.runner.bench_device import BenchDevice, median_seconds

_INT8_RANGE = 127
_SUSTAINED_S = 0.1
"""Long enough for a GPU to settle at the clock that its power limit allows."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is measured.

    Args:
        products: (rows, n, k) of matrix products; the fastest gives the rate, because the model knows what smaller ones lose
            (`Rates.processors`). On a CPU, of which it does not know that: rows and widths of the layers that a step goes through.
        elements: of a tensor in element-wise work.
        expanded: (n, k) of a quantised weight.
        attention: (batch, heads, tokens, head width).
    """

    products: tuple[tuple[int, int, int], ...]
    elements: tuple[int, int]
    expanded: tuple[int, int]
    attention: tuple[int, int, int, int]


SIZES = {
    # layers of a model of 0.1 billion parameters, hundreds of tokens, more weights than caches hold: what a CPU trains
    "cpu": Sizes(((256, 576, 1536),) * 4, (512, 1536), (1536, 1024), (2, 8, 256, 64)),
    # large enough to fill any GPU, small enough for one of 4 GiB
    "cuda": Sizes(((4096, 4096, 4096), (8192, 8192, 8192), (4096, 11008, 4096)), (16384, 4096), (11008, 4096), (4, 32, 2048, 128)),
}


def matmul_rates(device: BenchDevice, sizes: Sizes) -> dict[str, float]:
    """FLOP/s of matrix products by dtype: of large ones on a GPU, of those of a step on a CPU."""
    measure = _large_products if device.processors() else _products_of_a_step
    rates = {}
    for dtype in device.matmul_dtypes():
        device.use_tf32(dtype == "tf32")
        try:
            rates[dtype] = measure(device, sizes, dtype)
        finally:
            device.use_tf32(False)
    return rates


def _large_products(device: BenchDevice, sizes: Sizes, dtype: str) -> float:
    import torch

    found = []
    for rows, n, k in sizes.products:
        x, weight = (torch.randn(shape, device=device.name).to(_torch_dtype(dtype)) for shape in ((rows, k), (n, k)))
        found.append(2.0 * rows * n * k / median_seconds(partial(torch.nn.functional.linear, x, weight), device, sample_s=_SUSTAINED_S))
    return max(found)


def _products_of_a_step(device: BenchDevice, sizes: Sizes, dtype: str) -> float:
    """Forward and backward through pairs of frozen layers, up and down: every weight comes from the memory, every result is new."""
    import torch

    layers = sizes.products if dtype == "fp32" else sizes.products[:1]  # 16 bits may be emulated, thirty times slower
    pairs = [[torch.randn(shape).to(_torch_dtype(dtype)) / 32 for shape in ((n, k), (k, n))] for _rows, n, k in layers]
    rows, _, width = layers[0]
    rows = rows if dtype == "fp32" else max(1, rows // 4)
    x = torch.randn(rows, width).to(_torch_dtype(dtype)).requires_grad_(True)

    def work() -> Any:
        y = x
        for up, down in pairs:
            y = torch.nn.functional.linear(torch.nn.functional.linear(y, up), down)
        return torch.autograd.grad(y, x, y.detach())

    flops = sum(8.0 * rows * n * k for _rows, n, k in layers)  # two layers, forward and backward, 2 each
    return flops / median_seconds(work, device, samples=3)


def bandwidth(device: BenchDevice, sizes: Sizes, dtype: str) -> float:
    """Bytes per second that element-wise operations read and write: a norm, a gated activation, a residual connection, a cast."""
    import torch

    rows, width = sizes.elements
    x, gate = (torch.randn(rows, width, device=device.name).to(_torch_dtype(dtype)) for _ in range(2))
    scale, size = torch.ones(width, device=device.name, dtype=x.dtype), x.nbytes

    def work() -> Any:
        squares = x * x
        variance = squares.mean(-1, keepdim=True)
        normed = scale * (x * torch.rsqrt(variance + 1e-6))
        return normed + torch.nn.functional.silu(gate) * normed

    moved = size * (3 + 1 + 2 + 2 + 2 + 3 + 3)  # mul, mean, two with a broadcast operand, silu, mul, add
    return float(moved / median_seconds(work, device))


def expansion_rates(device: BenchDevice, sizes: Sizes, dtype: str) -> dict[str, float]:
    """Bytes per second of expanded weights by quantisation; empty without bitsandbytes."""
    import importlib.util

    import torch

    if importlib.util.find_spec("bitsandbytes") is None:
        return {}
    from bitsandbytes import functional

    weight = torch.randn(sizes.expanded, device=device.name).to(_torch_dtype(dtype))
    rates = {}
    for kind in ("nf4", "fp4"):
        quantized, state = functional.quantize_4bit(weight, quant_type=kind)
        seconds = median_seconds(partial(functional.dequantize_4bit, quantized, state), device)
        rates[kind] = weight.nbytes / seconds
    if device.name == "cuda":
        codes, scale = (weight * 20).clamp(-_INT8_RANGE, _INT8_RANGE).to(torch.int8), weight[:, :1].abs()
        rates["int8"] = weight.nbytes / median_seconds(lambda: codes.to(weight.dtype).mul_(scale), device)
    return rates


def attention_shares(device: BenchDevice, sizes: Sizes, dtype: str, matmul_flops_per_s: float) -> dict[str, float]:
    """Of the matrix rate that fused causal attention reaches, forward and backward (five products for two, recomputing the scores)."""
    import torch

    batch, heads, tokens, width = sizes.attention
    q, k, v = (torch.randn(batch, heads, tokens, width, device=device.name).to(_torch_dtype(dtype)).requires_grad_(True) for _ in range(3))
    flops = 2.0 * batch * heads * tokens * tokens * width

    def forward() -> Any:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    shares = {}
    for prefix, chosen in device.attention_kernels().items():
        with chosen:
            output = forward()
            gradient = torch.ones_like(output)
            forward_s = median_seconds(forward, device)
            backward_s = median_seconds(partial(torch.autograd.grad, output, (q, k, v), gradient, retain_graph=True), device)
        shares[f"{prefix}forward"] = flops / forward_s / matmul_flops_per_s
        shares[f"{prefix}backward"] = 2.5 * flops / backward_s / matmul_flops_per_s
    return shares


def _torch_dtype(name: str) -> Any:
    from ftadvise.runner.load_model import torch_dtype

    return torch_dtype("fp32" if name == "tf32" else name)
