"""Calibration figures of one GPU: what the context takes, cuBLAS's workspace, how fast it multiplies and de-quantises.

Run by gpu_memory.py: python benchmarks/gpu_probes.py --device cuda; the last line on stdout is JSON: [[probe, value, unit], ...].
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import nvml_memory
import torch

Figure = tuple[str, int | float, str]

# (rows, inner, columns): a decoder's projections at few and many tokens, a long thin one as LoRA's, a head
SHAPES = ((1024, 4096, 4096), (4096, 4096, 4096), (8192, 4096, 14336), (4096, 4096, 16), (4096, 16, 4096), (4096, 2048, 151936))


def context_probes() -> list[Figure]:
    """Device memory that is no tensor: the context, and what loading the first kernels adds. Must run first in its process."""
    used_before = nvml_memory.used_by_uuid()
    first = torch.zeros(1, device="cuda")
    uuid = nvml_memory.torch_uuid()
    before = used_before[uuid]

    def beyond_tensors() -> int:
        torch.cuda.synchronize()
        return nvml_memory.read(uuid).device_used_bytes - before - torch.cuda.memory_reserved()

    figures: list[Figure] = [("context, first tensor", beyond_tensors(), "bytes")]
    held = torch.cuda.memory_allocated()
    for dtype in (torch.bfloat16, torch.float32):
        square = torch.zeros(256, 256, device="cuda", dtype=dtype)
        product = square @ square
        workspace = torch.cuda.memory_allocated() - held - 2 * square.untyped_storage().nbytes()
        figures.append((f"cuBLAS workspace after a {_name(dtype)} product", workspace, "bytes"))
        del square, product
    layer = torch.nn.Linear(256, 256, device="cuda", dtype=torch.bfloat16)
    layer(torch.zeros(8, 256, device="cuda", dtype=torch.bfloat16)).sum().backward()
    figures += [("context, after products and a backward pass", beyond_tensors(), "bytes")]
    heads = torch.zeros(1, 8, 128, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True).sum().backward()
    figures += [("context, after attention", beyond_tensors(), "bytes")]
    process = nvml_memory.read(uuid).process_bytes
    if process is not None:
        figures.append(("process minus reserved, as NVML says", process - torch.cuda.memory_reserved(), "bytes"))
    del first, layer, heads
    return figures


def product_probes(device: str, shapes: tuple[tuple[int, int, int], ...]) -> list[Figure]:
    """Dense matrix products, in floating-point operations per second."""
    figures: list[Figure] = []
    dtypes = (torch.bfloat16, torch.float16, torch.float32) if device == "cuda" else (torch.float32,)
    for dtype in dtypes:
        for rows, inner, columns in shapes:
            left, right = torch.ones(rows, inner, device=device, dtype=dtype), torch.ones(inner, columns, device=device, dtype=dtype)
            seconds = seconds_of(lambda left=left, right=right: left @ right, device)
            figures.append((f"product {_name(dtype)} {rows} x {inner} x {columns}", round(2 * rows * inner * columns / seconds), "flop/s"))
    return figures


def dequantization_probes(device: str, shape: tuple[int, int]) -> list[Figure]:
    """bitsandbytes' 4-bit weights back to 16 bits, in bytes of the result per second, and its memory."""
    from bitsandbytes import functional

    weight = torch.randn(shape, device=device, dtype=torch.bfloat16)
    figures: list[Figure] = []
    for name, options in (("nf4", {}), ("nf4 double", {"compress_statistics": True}), ("fp4", {"quant_type": "fp4"})):
        settings: dict[str, Any] = {"quant_type": "nf4", **options}
        packed, state = functional.quantize_4bit(weight, **settings)
        seconds = seconds_of(lambda packed=packed, state=state: functional.dequantize_4bit(packed, state), device)
        figures.append((f"de-quantisation {name} {shape[0]} x {shape[1]}", round(2 * weight.numel() / seconds), "bytes/s"))
    return figures


def copy_probes(device: str, size_bytes: int) -> list[Figure]:
    """Memory bandwidth: a copy reads and writes."""
    source = torch.empty(size_bytes, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return [("copy, read and write", round(2 * size_bytes / seconds_of(lambda: target.copy_(source), device)), "bytes/s")]


def seconds_of(action: Callable[[], Any], device: str, *, at_least_s: float = 0.2) -> float:
    """Seconds of one call, from as many as fill `at_least_s` after a warm-up."""

    def run(times: int) -> float:
        _wait(device)
        started = time.perf_counter()
        for _ in range(times):
            action()
        _wait(device)
        return time.perf_counter() - started

    run(2)
    times = max(1, round(at_least_s / max(run(1), 1e-6)))
    return run(times) / times


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _name(dtype: torch.dtype) -> str:
    return {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}[dtype]


def main() -> int:
    """Probe the device; the figures as JSON."""
    parser = argparse.ArgumentParser(description="calibration figures of one GPU")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    device: str = parser.parse_args().device
    cuda = device == "cuda"
    figures = context_probes() if cuda else []
    figures += product_probes(device, SHAPES if cuda else ((64, 64, 64),))
    figures += dequantization_probes(device, (4096, 14336) if cuda else (64, 64))
    figures += copy_probes(device, 1 << 30 if cuda else 1 << 20)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
