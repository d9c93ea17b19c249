"""Time of one matrix product or attention kernel: the roofline, with the steps in which a GPU's processors take tiles.

A product (M x K) (K x N) is cut into tiles of the output. Rows and columns that do not fill a tile are computed all the same, and the
last wave of tiles leaves processors idle; a small output over a long K is cut along K too. Larger tiles read less and run faster.
Source: NVIDIA, Matrix Multiplication Background User's Guide (tile and wave quantization; tile sizes from most to least efficient).
"""

from __future__ import annotations

import functools
import math

from ftadvise.estimator.speed.rates import Rates
from ftadvise.estimator.tape.profile import QUANTITIES, Vector
from ftadvise.estimator.tape.work import Product

_INDEX = {name: index for index, name in enumerate(QUANTITIES)}
_RANK, _SEQ = _INDEX["rank"], _INDEX["seq"]

_TILES = ((128, 256, 1.0), (128, 128, 0.9), (64, 128, 0.75), (64, 64, 0.6), (32, 64, 0.35))
"""Rows, columns, and the share of the largest tile's rate. The shares are estimates: the source gives the order only."""
_SPLIT = 1024
"""Length of K from which it is worth a processor of its own."""


def product_flops(product: Product, values: Vector) -> float:
    """Floating-point operations, those that padding to tiles adds left out."""
    rows = values[_INDEX[product.rows]] * product.times
    if product.kind in ("attention", "attention_backward"):
        share = _window_share(product.window, values[_SEQ])
        return float(rows * (product.n + product.k)) * share * (2.5 if product.kind == "attention_backward" else 1.0)
    if product.kind == "scores":
        return 2.0 * rows * product.n
    n, k = _sizes(product, values)
    return 2.0 * rows * n * k / (product.groups if product.alone else 1)


def product_seconds(product: Product, values: Vector, rates: Rates, dtype: str) -> float:
    """Seconds of one such product in `dtype` (what its operands are); without the fixed time of a kernel."""
    flops, rate = product_flops(product, values), rates.matmul_flops_per_s[dtype] * rates.sustained
    if product.kind in ("attention", "attention_backward"):
        return flops / (rate * _attention_share(product, rates))
    if product.kind == "scores":
        heads = max(1, product.n // max(1, product.k))
        scores = values[_INDEX[product.rows]] * heads
        return max(flops / rate, product.item * scores / rates.bandwidth_bytes_per_s)
    rows = values[_INDEX[product.rows]] * product.times / product.groups
    n, k = _sizes(product, values)
    m, columns, inner = (n, k, rows) if product.inner_rows else (rows, n, k)
    together = 1 if product.alone else product.groups
    moved = product.item * (m * columns + m * inner + inner * columns) * together
    share = _share(m, columns, inner, together, rates.processors)
    return max(flops / (rate * share), moved / rates.bandwidth_bytes_per_s)


def _attention_share(product: Product, rates: Rates) -> float:
    direction = "backward" if product.kind == "attention_backward" else "forward"
    return rates.attention_share.get(f"{product.kernel}_{direction}", rates.attention_share[direction])


def _sizes(product: Product, values: Vector) -> tuple[int, int]:
    rank = values[_RANK]
    return (
        product.n * (rank if product.ranked == "n" else 1),
        product.k * (rank if product.ranked == "k" else 1),
    )


def _window_share(window: int, seq_len: int) -> float:
    """Pairs of query and key inside a window, as a share of all pairs on and below the diagonal: (2 w S - w^2) / S^2."""
    return (2 * window * seq_len - window * window) / (seq_len * seq_len) if 0 < window < seq_len else 1.0


@functools.lru_cache(maxsize=1 << 16)  # a search asks for the same shapes again and again
def _share(m: float, n: float, k: float, groups: int, processors: int) -> float:
    """Of the rate of large products that this one reaches."""
    if processors <= 0:
        return 1.0
    best = 0.0
    for rows, columns, share in _TILES:
        for height, width in ((rows, columns), (columns, rows)):
            tiles = math.ceil(m / height) * math.ceil(n / width)
            units = tiles * groups
            if units < processors:
                units *= max(1, min(int(k // _SPLIT), processors // units))
            waves = math.ceil(units / processors)
            filled = (m * n) / (tiles * height * width)
            best = max(best, share * filled * units / (waves * processors))
            if rows == columns:
                break
    return best
