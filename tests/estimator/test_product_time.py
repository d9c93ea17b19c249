"""Time of one product: operations by hand, the roofline, tiles, attention kernels, experts."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.estimator.speed.product_time import product_cost
from ftadvise.estimator.speed.rates import Rates
from ftadvise.estimator.tape.profile import Vector, quantities
from ftadvise.estimator.tape.work import Product

PEAK, BANDWIDTH, PROCESSORS = 1e14, 1e12, 100
RATES = Rates(
    matmul_flops_per_s={"bf16": PEAK},
    bandwidth_bytes_per_s=BANDWIDTH,
    dequantize_bytes_per_s={},
    attention_share={"forward": 0.5, "backward": 0.4, "efficient_forward": 0.25, "efficient_backward": 0.2},
    kernel_s=0.0,
    host_s={},
    processors=PROCESSORS,
)
UNTILED = dataclasses.replace(RATES, processors=0)
SIZES = st.integers(1, 20_000)


def values(tokens: int, *, sequences: int = 1, rank: int = 16) -> Vector:
    return quantities(sequences=sequences, seq_len=tokens // sequences, rank=rank, chunk_tokens=lambda count: count)


def cost(product: Product, quantity: Vector, rates: Rates = RATES) -> tuple[float, float]:
    return product_cost(product, quantity, rates, PEAK)


def seconds(m: int, n: int, k: int, rates: Rates = RATES) -> float:
    return cost(Product("matmul", "tokens", n, k, 2), values(m), rates)[1]


def test_operations_of_each_kind_by_hand() -> None:
    at = values(512, sequences=2, rank=8)
    assert cost(Product("matmul", "tokens", 300, 200, 2), at)[0] == 2 * 512 * 300 * 200
    assert cost(Product("matmul", "tokens", 300, 200, 2, inner_rows=True), at)[0] == 2 * 512 * 300 * 200
    assert cost(Product("adapter", "tokens", 1, 200, 4, ranked="n"), at)[0] == 2 * 512 * 8 * 200
    assert cost(Product("adapter", "tokens", 300, 1, 4, ranked="k"), at)[0] == 2 * 512 * 300 * 8
    assert cost(Product("adapter", "one", 1, 200, 4, ranked="n", times=200), at)[0] == 2 * 200 * 8 * 200
    # two sequences of 256: 131,072 pairs of query and key, each a product over all features
    assert cost(Product("scores", "scores", 64, 16, 2), at)[0] == 2 * 2 * 256**2 * 64
    # scores and values, but only on and below the diagonal
    assert cost(Product("attention", "scores", 64, 64, 2, kernel="flash"), at)[0] == 2 * 2 * 256**2 * 64
    assert cost(Product("attention_backward", "scores", 64, 64, 2, kernel="flash"), at)[0] == 5 * 2 * 256**2 * 64
    # with a mask the kernel does not know what is hidden
    assert cost(Product("attention", "scores", 64, 64, 2, times=2, kernel="efficient"), at)[0] == 4 * 2 * 256**2 * 64


@given(m=SIZES, n=SIZES, k=SIZES, processors=st.sampled_from([0, 40, 100, 132]))
def test_nothing_is_faster_than_the_roofline(m: int, n: int, k: int, processors: int) -> None:
    rates = dataclasses.replace(RATES, processors=processors)
    flops, taken = cost(Product("matmul", "tokens", n, k, 2), values(m), rates)
    assert taken >= flops / PEAK * (1 - 1e-12)
    assert taken >= 2 * (m * n + m * k + n * k) / BANDWIDTH * (1 - 1e-12)


@given(m=SIZES, n=SIZES, k=SIZES, more_m=st.integers(0, 9_999), more_n=st.integers(0, 9_999), more_k=st.integers(0, 9_999))
def test_a_larger_product_never_takes_less(m: int, n: int, k: int, more_m: int, more_n: int, more_k: int) -> None:
    """Cutting K begins at whole pieces, so just below such a step a small output may take up to twice as long."""
    assert seconds(m + more_m, n, k) >= seconds(m, n, k) * (1 - 1e-12)
    assert seconds(m, n + more_n, k) >= seconds(m, n, k) * (1 - 1e-12)
    assert seconds(m, n, k + more_k) >= seconds(m, n, k) / 2


@given(m=SIZES, n=SIZES, k=SIZES)
def test_which_factor_stands_first_makes_no_difference(m: int, n: int, k: int) -> None:
    assert seconds(m, n, k) == pytest.approx(seconds(n, m, k))


def test_a_large_product_reaches_the_rate_and_a_small_one_waits_for_the_memory() -> None:
    assert seconds(12_800, 12_800, 8192) == pytest.approx(2 * 12_800 * 12_800 * 8192 / PEAK, rel=0.01)  # 50 x 100 tiles: 50 whole waves
    assert seconds(1, 8192, 8192, UNTILED) == pytest.approx(2 * (8192 * 8192 + 2 * 8192) / BANDWIDTH)


def test_rows_that_do_not_fill_a_tile_are_computed_all_the_same() -> None:
    """100 tiles fill the processors once; one row more asks for another wave, of these tiles or of smaller, slower ones."""
    whole, padded = seconds(12_800, 256, 8192), seconds(12_801, 256, 8192)
    assert whole == pytest.approx(2 * 12_800 * 256 * 8192 / PEAK)
    assert 1.5 * whole < padded <= 2 * whole
    assert seconds(12_801, 256, 8192, UNTILED) == pytest.approx(whole, rel=1e-3)


def test_a_small_output_over_a_long_sum_is_shared_out_along_it() -> None:
    """The smallest tile uses one processor of a hundred, at 0.35 of its rate; a sum of 8,192 in pieces of 1,024 uses eight."""
    short, long = seconds(32, 64, 1024), seconds(32, 64, 8192)
    assert short == pytest.approx(2 * 32 * 64 * 1024 / (0.35 * PEAK / PROCESSORS))
    assert long == pytest.approx(short)


@pytest.mark.parametrize(("kernel", "forward", "backward"), [("flash", 0.5, 0.4), ("efficient", 0.25, 0.2), ("cpu", 0.5, 0.4)])
def test_attention_kernels_have_rates_of_their_own(kernel: str, forward: float, backward: float) -> None:
    at = values(2048)
    flops, taken = cost(Product("attention", "scores", 512, 512, 2, kernel=kernel), at)
    assert taken == pytest.approx(flops / (PEAK * forward))
    back, taken = cost(Product("attention_backward", "scores", 512, 512, 2, kernel=kernel), at)
    assert back == pytest.approx(2.5 * flops)
    assert taken == pytest.approx(back / (PEAK * backward))


@given(window=st.integers(1, 5000), length=st.integers(1, 5000))
def test_a_window_leaves_out_what_lies_before_it(window: int, length: int) -> None:
    """A query sees as many keys as precede it, at most `window`; counted one by one, a key too few on the diagonal's half."""
    product = Product("attention", "scores", 8, 8, 2, kernel="flash", window=window)
    share = cost(product, values(length))[0] / cost(product._replace(window=0), values(length))[0]
    seen = sum(min(query + 0.5, window) for query in range(length)) / sum(query + 0.5 for query in range(length))
    assert share == pytest.approx(seen, abs=1 / length)
    assert 0 < share <= 1


def test_scores_written_out_are_bound_by_their_bytes() -> None:
    at = values(4096)
    heads, width = 32, 32 * 64
    _, taken = cost(Product("scores", "scores", width, 64, 4), at)
    assert taken == pytest.approx(max(2 * 4096**2 * width / PEAK, 4 * heads * 4096**2 / BANDWIDTH))


def test_experts_share_the_rows_and_read_every_weight() -> None:
    at, one = values(1024), Product("matmul", "tokens", 4096, 4096, 2)
    grouped = one._replace(times=2, groups=8)
    assert cost(grouped, at)[0] == 2 * cost(one, at)[0]
    # 32 rows in all, 4 for each of eight weights, which are all read
    few = values(16)
    assert cost(grouped, few)[1] == pytest.approx(2 * (8 * 4096 * 4096 + 2 * 2 * 16 * 4096) / BANDWIDTH)
    # a module of its own is one of them
    alone = grouped._replace(alone=True)
    assert cost(alone, at)[0] == pytest.approx(cost(grouped, at)[0] / 8)
    assert math.isclose(cost(alone, few)[1], cost(grouped, few)[1] / 8, rel_tol=1e-9)
    # and too small to fill the processors that all of them fill together
    small = grouped._replace(n=256, k=1024)
    assert 8 * cost(small._replace(alone=True), at)[1] > 2 * cost(small, at)[1]
