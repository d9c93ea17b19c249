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


def product_cost(product: Product, values: Vector, rates: Rates, flops_per_s: float) -> tuple[float, float]:
    """(floating-point operations, seconds) of one such product, where large ones reach `flops_per_s`.

    Operations that padding to tiles adds are in the time only, and the fixed time of a kernel is in neither.
    """
    kind, rows = product.kind, values[_INDEX[product.rows]]
    if kind in ("attention", "attention_backward"):
        flops = float(rows * product.times * (product.n + product.k)) * _window_share(product.window, values[_SEQ])
        if kind == "attention_backward":
            flops *= 2.5
        return flops, flops / (flops_per_s * _attention_share(product, rates))
    rank = values[_RANK] if product.ranked else 1
    return _cost(product, rows, rank, flops_per_s, rates.bandwidth_bytes_per_s, rates.processors)


@functools.lru_cache(maxsize=1 << 16)  # a search asks for the same shapes again and again
def _cost(product: Product, rows: int, rank: int, flops_per_s: float, bandwidth: float, processors: int) -> tuple[float, float]:
    if product.kind == "scores":
        flops, heads = 2.0 * rows * product.times * product.n, max(1, product.n // max(1, product.k))
        return flops, max(flops / flops_per_s, product.item * rows * heads / bandwidth)
    n, k = product.n * (rank if product.ranked == "n" else 1), product.k * (rank if product.ranked == "k" else 1)
    each, together = rows * product.times / product.groups, 1 if product.alone else product.groups
    m, columns, inner = (n, k, each) if product.inner_rows else (each, n, k)
    flops = 2.0 * each * n * k * together
    moved = product.item * (m * columns + m * inner + inner * columns) * together
    return flops, max(flops / (flops_per_s * _share(m, columns, inner, together, processors)), moved / bandwidth)


def _attention_share(product: Product, rates: Rates) -> float:
    direction = "backward" if product.kind == "attention_backward" else "forward"
    return rates.attention_share.get(f"{product.kernel}_{direction}", rates.attention_share[direction])


def _window_share(window: int, seq_len: int) -> float:
    """Pairs of query and key inside a window, as a share of all pairs on and below the diagonal: (2 w S - w^2) / S^2."""
    return (2 * window * seq_len - window * window) / (seq_len * seq_len) if 0 < window < seq_len else 1.0


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
