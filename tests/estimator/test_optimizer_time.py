"""Bytes and time of the optimizer's update."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.estimator.recipe import Optimizer, Recipe
from ftadvise.estimator.speed.optimizer_time import optimizer_bytes, optimizer_seconds
from ftadvise.estimator.speed.rates import Rates

RATES = Rates({}, 1e12, {}, {}, 1e-6, {"forward": 2e-5, "backward": 1e-5})
OPTIMIZERS = get_args(Optimizer)


@pytest.mark.parametrize(
    ("optimizer", "item", "expected"),
    [
        ("sgd", 4, 4 * 3),  # reads parameter and gradient, writes the parameter
        ("adamw_torch_fused", 4, 4 * (2 + 1 + 4)),  # and both moments, read and written
        ("adamw_torch_fused", 2, 2 * (2 + 1 + 4)),
        ("adamw_torch", 4, 4 * 19),
        ("adamw_8bit", 2, 2 * 3 + 4),  # four passes over moments of one byte
        ("paged_adamw_8bit", 2, 2 * 3 + 4),
        ("paged_adamw_32bit", 2, 2 * 3 + 4 * 4),
        ("lion_32bit", 2, 2 * 3 + 2 * 4),  # one moment
        ("lion_8bit", 2, 2 * 3 + 2),
        ("adafactor", 2, 2 * 3 + 56),
    ],
)
def test_bytes_of_one_element_by_hand(optimizer: Any, item: int, expected: int) -> None:
    recipe = Recipe(optimizer=optimizer, max_grad_norm=0.0)
    assert optimizer_bytes(recipe, 1, item) == expected
    # clipping reads the gradient for its norm, then reads and writes it
    assert optimizer_bytes(recipe.replace(max_grad_norm=1.0), 1, item) == expected + 3 * item


@given(optimizer=st.sampled_from(OPTIMIZERS), wide=st.integers(0, 10**9), narrow=st.integers(0, 10**9), tensors=st.integers(0, 1000))
def test_time_is_the_bytes_of_all_dtypes_and_a_look_at_each_tensor(optimizer: Any, wide: int, narrow: int, tensors: int) -> None:
    recipe = Recipe(optimizer=optimizer)
    device, host = optimizer_seconds(recipe, {4: wide, 2: narrow}, tensors, RATES)
    assert device == pytest.approx((optimizer_bytes(recipe, wide, 4) + optimizer_bytes(recipe, narrow, 2)) / 1e12)
    assert host == pytest.approx(2e-5 * tensors)


@given(optimizer=st.sampled_from(OPTIMIZERS), elements=st.integers(1, 10**9))
def test_one_kernel_beats_one_per_statement_and_fewer_bits_beat_more(optimizer: Any, elements: int) -> None:
    def moved(name: Any) -> int:
        return optimizer_bytes(Recipe(optimizer=name), elements, 4)

    assert moved("sgd") <= moved(optimizer) <= moved("adamw_torch")
    assert moved("adamw_8bit") < moved("adamw_torch_fused") <= moved("paged_adamw_32bit")
