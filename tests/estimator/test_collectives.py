"""What GPUs send each other, and what of it computation hides."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.speed.collectives import exposed_seconds, sent_bytes, unit_operations
from ftadvise.estimator.speed.rates import Rates

RATES = Rates({}, 1e12, {}, {}, 1e-6, {}, link_bytes_per_s=1e9)
SHARDINGS = ("ddp", "zero1", "zero2", "zero3", "fsdp")
PARAMETERS, GRADIENTS = 8_000, 800


@pytest.mark.parametrize(
    ("sharding", "passes", "expected"),
    [
        ("ddp", 1, 2 * GRADIENTS),
        ("ddp", 8, 2 * GRADIENTS),  # gradients meet once per step
        ("zero1", 8, 3 * GRADIENTS),
        ("zero2", 1, 2 * GRADIENTS),
        ("zero2", 8, 9 * GRADIENTS),  # they are scattered after each backward pass
        ("zero3", 1, 2 * PARAMETERS + GRADIENTS),
        ("fsdp", 8, 8 * (2 * PARAMETERS + GRADIENTS)),
    ],
)
def test_bytes_by_hand(sharding: Any, passes: int, expected: int) -> None:
    recipe = Recipe(sharding=sharding, gradient_accumulation=passes)
    assert sent_bytes(recipe, 4, parameters=PARAMETERS, gradients=GRADIENTS) == expected * 3 // 4
    assert sent_bytes(recipe, 1, parameters=PARAMETERS, gradients=GRADIENTS) == 0


def test_gpus_that_share_nothing_send_nothing() -> None:
    assert sent_bytes(Recipe(), 8, parameters=PARAMETERS, gradients=GRADIENTS) == 0
    assert unit_operations(Recipe(), 8, layers=32, tensors=448) == 0


@given(sharding=st.sampled_from(SHARDINGS), gpus=st.integers(2, 64), gradients=st.integers(0, 10**12))
def test_more_gpus_never_send_less_each(sharding: Any, gpus: int, gradients: int) -> None:
    recipe = Recipe(sharding=sharding)

    def sent(count: int) -> int:
        return sent_bytes(recipe, count, parameters=2 * gradients, gradients=gradients)

    assert sent(gpus) <= sent(gpus + 1)


@given(sent=st.integers(1, 10**12), computation=st.floats(0, 1000), overlap=st.floats(0, 1))
def test_communication_is_between_hidden_as_far_as_it_can_be_and_not_at_all(sent: int, computation: float, overlap: float) -> None:
    rates = dataclasses.replace(RATES, overlap=overlap)
    whole, exposed = sent / 1e9, exposed_seconds(sent, rates, computation)
    assert whole * (1 - overlap) * (1 - 1e-9) <= exposed <= whole * (1 + 1e-9)
    assert exposed >= whole - computation - 1e-9 * whole
    assert exposed_seconds(sent, rates, 0.0) == pytest.approx(whole)
    assert exposed_seconds(sent, rates, whole) == pytest.approx(whole * (1 - overlap))


def test_without_a_link_or_anything_to_send_there_is_no_time() -> None:
    assert exposed_seconds(0, RATES, 1.0) == 0
    assert exposed_seconds(10, dataclasses.replace(RATES, link_bytes_per_s=None), 1.0) == 0


def test_fsdp_gathers_every_adapter_by_itself() -> None:
    """PEFT's policy wraps them; ZeRO-3 gathers what a layer asks for."""
    lora, full = Recipe(sharding="fsdp"), Recipe(sharding="fsdp", method="full")
    each = unit_operations(full, 2, layers=0, tensors=0)
    assert unit_operations(full, 2, layers=32, tensors=448) == 33 * each
    assert unit_operations(lora, 2, layers=32, tensors=448) == (33 + 448) * each
    assert unit_operations(lora.replace(sharding="zero3"), 2, layers=32, tensors=448) == 33 * each
    assert unit_operations(lora.replace(sharding="ddp"), 2, layers=32, tensors=448) == 0
