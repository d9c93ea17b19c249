"""The bottleneck in words: what is named, which changes are priced, which are told."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from advisor_stand_ins import a_gpu, a_machine, a_model, stand_in_estimate

from ftadvise.advisor.bottleneck import bottleneck
from ftadvise.advisor.plan_types import Bottleneck
from ftadvise.estimator.estimate_types import Estimate
from ftadvise.estimator.lengths import LengthStats
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError

MODEL, ROOMY, SMALL = a_model(7.7), a_machine(a_gpu(80)), a_machine(a_gpu(24))
LORA = Recipe(seq_len=512)


def found(recipe: Recipe, hardware: Any = ROOMY, lengths: LengthStats | None = None, **speed: Any) -> Bottleneck:
    def price(recipe: Recipe) -> Estimate:
        estimate = stand_in_estimate(MODEL, hardware, recipe)
        assert estimate.throughput is not None
        return dataclasses.replace(estimate, throughput=dataclasses.replace(estimate.throughput, **speed))

    result = bottleneck(price(recipe), price, lengths)
    assert result is not None
    return result


def sentence(texts: Any, flags: str) -> str:
    english: str = next(each.en for each in texts if each.en.startswith(flags))
    return english


def test_the_kind_comes_first_with_its_classes_then_the_rest() -> None:
    shares = {"matmul": 0.5, "attention": 0.12, "elementwise": 0.3, "dequantization": 0.06, "launch": 0.02}
    bound = found(LORA, shares=shares, stretches={"recomputation": 0.27}).bound
    assert bound.en == (
        "Computing, 62 % of a step: matrix products 50 %, attention 12 %. A faster device, or several, shorten it. "
        "Beside it: norms and element-wise work 30 %, de-quantisation 6 %. 27 % of a pass is computed twice."
    )
    assert "计算占一步的 62%：矩阵乘法 50 %、注意力 12 %" in bound.zh


@pytest.mark.parametrize(
    ("bound_by", "shares", "begins"),
    [
        ("memory", {"elementwise": 0.5, "dequantization": 0.2, "matmul": 0.3}, "Memory bandwidth, 70 % of a step: norms"),
        ("overhead", {"launch": 0.8, "matmul": 0.2}, "Waiting, 80 % of a step: waiting for the host 80 %."),
        ("overhead", {"communication": 0.6, "matmul": 0.4}, "Waiting, 60 % of a step: communication 60 %."),
    ],
)
def test_each_kind_has_its_sentence(bound_by: str, shares: dict[str, float], begins: str) -> None:
    assert found(LORA, bound_by=bound_by, shares=shares).bound.en.startswith(begins)


def test_every_class_of_the_speed_model_has_words() -> None:
    from ftadvise.estimator.speed.step_time import CLASSES

    for name in CLASSES:
        assert found(LORA, shares={name: 1.0}).bound.zh


def test_what_is_faster_is_told_with_its_memory_whether_it_fits_or_not() -> None:
    fits = sentence(found(LORA).faster, "--no-gradient-checkpointing")
    assert re.search(r"nothing is computed twice\): 33 % faster, \d+\.\d GiB of 80\.0 GiB in use", fits)
    packed = LORA.replace(micro_batch=8, gradient_accumulation=1, seq_len=2048)
    elsewhere = sentence(found(packed, SMALL).faster, "--no-gradient-checkpointing")
    assert re.search(r"33 % faster, but needs up to \d+\.\d GiB, \d+\.\d more than there are|GiB more than there are", elsewhere)


def test_a_quantised_base_names_its_share_of_the_step() -> None:
    qlora = LORA.replace(quantization="nf4", double_quantization=True, adapter_dtype="bf16")
    assert "--quantization none --no-double-quantization (no de-quantisation: 7 % of the step): 25 % faster" in sentence(
        found(qlora).faster, "--quantization"
    )


def test_of_larger_batches_the_smallest_that_gains_is_told() -> None:
    texts = [each.en for each in found(LORA).faster if each.en.startswith("--micro-batch")]
    assert len(texts) == 1
    assert texts[0].startswith("--micro-batch 8 --gradient-accumulation 2 ")


def test_packing_counts_what_padding_costs() -> None:
    recipe = LORA.replace(micro_batch=4, gradient_accumulation=4)
    short = found(recipe, lengths=LengthStats.of([100] * 64, measured=True))
    assert "--packing (no padding): 392 % faster" in sentence(short.faster, "--packing")
    full = found(recipe, lengths=LengthStats.of([512] * 64, measured=True))
    assert not [each for each in full.faster if each.en.startswith("--packing")]


def test_what_is_smaller_says_what_it_costs() -> None:
    recipe = LORA.replace(micro_batch=8, gradient_accumulation=2, gradient_checkpointing=False)
    texts = found(recipe).smaller
    assert re.search(r"activations are recomputed\): \d+\.\d GiB less, 25 % slower", sentence(texts, "--gradient-checkpointing"))
    assert sentence(texts, "--micro-batch 1 --gradient-accumulation 16")
    assert len(texts) <= 3
    saved = [float(re.findall(r"\): (\d+\.\d) GiB less", each.en)[0]) for each in texts]
    assert saved == sorted(saved, reverse=True)
    full = LORA.replace(method="full", adapter_dtype="bf16")
    assert "no gradients and optimizer state of the base" in sentence(found(full).smaller, "--method lora")


def test_changes_that_the_machine_cannot_run_are_left_out() -> None:
    def price(recipe: Recipe) -> Estimate:
        if recipe != LORA:
            raise InputError("not here")
        return stand_in_estimate(MODEL, ROOMY, recipe)

    result = bottleneck(price(LORA), price)
    assert result is not None
    assert (result.faster, result.smaller) == ((), ())
    assert result.to_json()["faster_zh"] == []
