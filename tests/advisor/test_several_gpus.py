"""Several GPUs: whole on each where it fits, divided where it does not, host memory last."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from advisor_stand_ins import a_gpu, a_machine, a_model, pricer

import ftadvise
from ftadvise.advisor.plan_types import NoPlanError, Plan, PlanRequest
from ftadvise.advisor.planner import make_plan


def plan_for(billion: float, count: int, memory: float = 24, **request: Any) -> Plan:
    model, hardware = a_model(billion), a_machine(*[a_gpu(memory)] * count)
    return make_plan(model, hardware, PlanRequest(**request), pricer(model, hardware))


def rules_of(plan: Plan) -> set[str]:
    return {reason.rule for reason in plan.reasons}


def test_a_model_that_fits_on_each_trains_data_parallel() -> None:
    plan = plan_for(1, 2)
    assert (plan.recipe.sharding, plan.recipe.offload) == ("ddp", "none")
    assert plan.recipe.sequences_per_step * 2 == 16
    assert "planner.layout_ddp" in rules_of(plan)
    divided = next(each for each in plan.alternatives if each.label.endswith("zero3"))
    assert "less on each GPU, 20 % slower" in divided.reason.en


def test_the_batch_of_all_gpus_stays_that_of_one() -> None:
    for count in (1, 2, 4, 8, 16):
        recipe = plan_for(1, count).recipe
        assert recipe.sequences_per_step * count == 16
    assert plan_for(1, 64).recipe.sequences_per_step == 1


def test_a_model_that_does_not_fit_on_one_is_divided() -> None:
    plan = plan_for(70, 4)
    assert (plan.recipe.label, plan.recipe.sharding, plan.recipe.offload) == ("QLoRA", "zero3", "none")
    assert {"planner.layout_divided", "size.ge_30b", "setup.multi_gpu"} <= rules_of(plan)
    whole = next(each for each in plan.alternatives if each.label == "QLoRA, ddp")
    assert "Does not fit: up to" in whole.reason.en
    assert not whole.estimate.memory.fits


def test_full_fine_tuning_divides_the_optimizer_first() -> None:
    assert plan_for(2, 4, fixed={"method": "full"}).recipe.sharding == "zero2"
    assert plan_for(8, 4, fixed={"method": "full"}).recipe.sharding == "zero3"


def test_host_memory_is_used_when_nothing_else_fits_and_before_useless_lengths() -> None:
    plan = plan_for(70, 2, 18)
    assert plan.recipe.offload == "all"
    assert plan.recipe.seq_len >= 512
    assert "planner.layout_offload" in rules_of(plan)
    assert any("With offload the speed is not known" in warning.en for warning in plan.warnings)


def test_a_host_that_was_probed_must_have_room_for_what_is_offloaded() -> None:
    model, named = a_model(70), a_machine(a_gpu(18), a_gpu(18), ram_gib=16)
    assert make_plan(model, named, PlanRequest(), pricer(model, named)).recipe.offload == "all"
    probed = dataclasses.replace(named, source="probed")
    with pytest.raises(NoPlanError) as raised:
        make_plan(model, probed, PlanRequest(), pricer(model, probed))
    assert "offload" not in {change.kind for change in raised.value.changes}


def test_flags_about_the_layout_stay() -> None:
    assert plan_for(1, 2, fixed={"sharding": "fsdp"}).recipe.sharding == "fsdp"
    offloaded = plan_for(1, 2, fixed={"offload": "all"}).recipe
    assert (offloaded.sharding, offloaded.offload) == ("zero3", "all")
    with pytest.raises(NoPlanError):
        plan_for(70, 2, fixed={"sharding": "ddp"})


def test_many_nodes_are_warned_of() -> None:
    assert any("between machines the network decides" in warning.en for warning in plan_for(1, 16).warnings)
    assert not any("between machines" in warning.en for warning in plan_for(1, 8).warnings)


@pytest.mark.parametrize(
    ("model", "gpu", "label", "sharding"),
    [
        ("Llama-3.1-8B", "8x H100", "LoRA", "ddp"),
        ("Llama-2-70b-hf", "4x RTX 4090", "QLoRA", "zero3"),
        ("Llama-2-70b-hf", "8x A100-80GB", "QLoRA", "ddp"),
    ],
)
def test_well_known_machines(model: str, gpu: str, label: str, sharding: str) -> None:
    plan = ftadvise.plan(model, gpu=gpu)
    assert (plan.recipe.label, plan.recipe.sharding) == (label, sharding)
    assert plan.estimate.memory.verdict == "fits"
