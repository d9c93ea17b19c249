"""Changes: what would make a request fit; each is true, and the one that gives up least comes first."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from advisor_stand_ins import a_gpu, a_machine, a_model, pricer, stand_in_estimate

import ftadvise
from ftadvise.advisor.changes import flags
from ftadvise.advisor.plan_types import Change, ChangeKind, NoPlanError, Plan, PlanRequest
from ftadvise.advisor.planner import make_plan
from ftadvise.profiles.hardware import Hardware

ORDER = get_args(ChangeKind)


def plan_for(billion: float, hardware: Hardware, **request: Any) -> Plan:
    model = a_model(billion)
    return make_plan(model, hardware, PlanRequest(**request), pricer(model, hardware), elsewhere=lambda machine: pricer(model, machine))


def changes_for(billion: float, hardware: Hardware, **request: Any) -> tuple[Change, ...]:
    with pytest.raises(NoPlanError) as raised:
        plan_for(billion, hardware, **request)
    return raised.value.changes


@pytest.mark.parametrize("billion", [7.7, 14, 34, 70])
@pytest.mark.parametrize("fixed", [{"method": "full"}, {"method": "lora", "quantization": "none"}, {"seq_len": 32768, "micro_batch": 8}])
def test_every_change_is_true_and_they_are_in_order(billion: float, fixed: dict[str, Any]) -> None:
    found = changes_for(billion, a_machine(a_gpu(12)), fixed=fixed)
    assert found
    for change in found:
        assert change.estimate is not None
        estimate = change.estimate
        assert stand_in_estimate(estimate.model, estimate.hardware, estimate.recipe).memory.fits
    kinds = [ORDER.index(change.kind) for change in found]
    assert kinds == sorted(kinds)


def test_more_gpus_and_another_gpu_are_named_with_their_price() -> None:
    found = changes_for(70, a_machine(a_gpu(24, price_usd_per_hour=0.5)))
    more = next(change for change in found if change.kind == "gpus")
    assert "4x Test GPU with --sharding zero3" in more.text.en
    assert "$2.00/h" in more.text.en
    others = [change for change in found if change.kind == "gpu"]
    prices = [each.estimate.hardware.gpus[0].price_usd_per_hour for each in others if each.estimate]
    assert len(others) == 2
    assert prices == sorted(prices, key=lambda price: price or 0)


def test_several_changes_together_when_none_alone_will_do() -> None:
    found = changes_for(7.7, a_machine(a_gpu(12)), fixed={"method": "lora", "quantization": "none", "seq_len": 32768, "micro_batch": 16})
    first = found[0]
    assert len(first.text.en.split("--")) > 2
    assert "--method qlora" in first.text.en


def test_without_other_machines_none_is_named() -> None:
    model, hardware = a_model(70), a_machine(a_gpu(12))
    with pytest.raises(NoPlanError) as raised:
        make_plan(model, hardware, PlanRequest(), pricer(model, hardware))
    assert [change.kind for change in raised.value.changes] == ["memory"]
    assert "a GPU with at least" in str(raised.value.hint)


def test_what_the_rules_want_most_says_what_it_would_take() -> None:
    plan = plan_for(13.9, a_machine(a_gpu(24)), team="beginner")
    assert plan.recipe.label == "QLoRA"
    assert plan.wanted is not None
    assert plan.wanted.label == "LoRA"
    assert {"quantization", "method"}.isdisjoint({change.kind for change in plan.wanted.changes})
    document = plan.to_json()["wanted"]
    assert document["changes"][0]["recipe"]["method"] == "lora"
    assert document["changes"][0]["change"] != document["changes"][0]["change_zh"]


def test_real_machines_that_do_are_named() -> None:
    with pytest.raises(NoPlanError) as raised:
        ftadvise.plan("Llama-2-70b-hf", gpu="RTX 4090")
    kinds = [change.kind for change in raised.value.changes]
    assert kinds == ["offload", "gpus", "gpu", "gpu"]
    assert all(change.estimate and change.estimate.memory.fits for change in raised.value.changes)
    assert all(isinstance(change.to_json()["high_bytes"], int) for change in raised.value.changes)


def test_a_minimum_length_is_kept() -> None:
    model, hardware = a_model(70), a_machine(a_gpu(46.5))
    assert make_plan(model, hardware, PlanRequest(), pricer(model, hardware)).recipe.seq_len < 2048
    found = changes_for(70, hardware, min_seq_len=2048)
    assert any("--seq-len" in change.text.en for change in found)
    assert plan_for(1, a_machine(a_gpu(24)), min_seq_len=3000).recipe.seq_len == 3000


def test_changes_are_said_as_flags() -> None:
    assert flags({"quantization": "nf4", "double_quantization": True, "adapter_dtype": "bf16"}) == "--method qlora"
    assert flags({"micro_batch": 2, "gradient_accumulation": 8}) == "--micro-batch 2"
    assert flags({"rank": 8, "alpha": 16, "gradient_checkpointing": True}) == "--rank 8 --gradient-checkpointing"
