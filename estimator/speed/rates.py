"""Rates: what a device reaches inside a training step, not what its data sheet says. Work divided by these is time.

They come from `efficiency.yaml` (shares of the data sheet's figures, by architecture) or from a calibration of this very device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ftadvise.estimator.estimate_types import Basis


@dataclass(frozen=True, slots=True)
class Rates:
    """One device.

    Args:
        matmul_flops_per_s: reached by large matrix products, by dtype ("fp32", "tf32", "fp16", "bf16"); a dtype it cannot do is missing.
        sustained: of the matrix rates, what is left in a step that runs for hours.
        bandwidth_bytes_per_s: reached by element-wise kernels, bytes read plus bytes written.
        dequantize_bytes_per_s: by quantisation ("nf4", "fp4", "int8"), bytes of the expanded weight that come out.
        attention_share: of the matmul rate that fused attention kernels reach: ("forward", "backward").
        kernel_s: the least time of one kernel on the device, whatever its size.
        host_s: time the host needs to launch one operation from Python in a forward pass, and from the autograd engine in a backward
            pass ("forward", "backward"); a step cannot be faster than the host.
        host_spread: how many times as long a slow host takes, where nobody has measured it.
        processors: what a matrix product's tiles are spread over (streaming multiprocessors), 0: not known, or a CPU.
        cache_bytes: the last cache before the memory; 0: not known.
        cache_bytes_per_s: reached by kernels that read what is still in it.
        link_bytes_per_s: what each device sends in a collective, one direction; None on one device.
        overlap: of communication, the share that runs beside computation where there is enough of it.
        interval: (low, high): measured speed lies between these multiples of the estimate in 90 of 100 cases.
        basis: "derived" from the data sheet, or "calibrated" on this device.
        sources: where the figures are from.
    """

    matmul_flops_per_s: Mapping[str, float]
    bandwidth_bytes_per_s: float
    dequantize_bytes_per_s: Mapping[str, float]
    attention_share: Mapping[str, float]
    kernel_s: float
    host_s: Mapping[str, float]
    sustained: float = 1.0
    host_spread: float = 1.0
    processors: int = 0
    cache_bytes: int = 0
    cache_bytes_per_s: float | None = None
    link_bytes_per_s: float | None = None
    overlap: float = 0.5
    interval: tuple[float, float] = (0.6, 1.5)
    basis: Basis = "derived"
    sources: tuple[str, ...] = ()
