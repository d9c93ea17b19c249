"""--max-hours and --budget: what keeps them comes first; else the steps are cut, and the plan says so."""

from __future__ import annotations

from typing import Any

import pytest
from advisor_stand_ins import a_gpu, a_machine, a_model, pricer
from hypothesis import given, settings
from hypothesis import strategies as st

from ftadvise.advisor.plan_types import Plan, PlanRequest
from ftadvise.advisor.planner import make_plan
from ftadvise.estimator.cost import Cost

MACHINE = a_machine(a_gpu(24, price_usd_per_hour=0.5))


def planned(billion: float = 1, hardware: Any = MACHINE, **request: Any) -> Plan:
    model = a_model(billion)
    return make_plan(model, hardware, PlanRequest(**request), pricer(model, hardware))


def cost_of(plan: Plan) -> Cost:
    assert plan.cost is not None
    return plan.cost


def told(plan: Plan, words: str) -> bool:
    return any(words in warning.en for warning in plan.warnings)


def test_steps_are_cut_to_the_limit_when_nothing_keeps_it() -> None:
    whole = planned(examples=1600)
    cost = cost_of(whole)
    assert (cost.steps, whole.recipe.max_steps) == (300, 0)
    assert cost.usd is not None
    assert cost.usd.value == pytest.approx(0.5 * cost.hours.value)
    for limit in ({"max_hours": cost.hours.value / 2}, {"budget_usd": cost.usd.value / 2}):
        cut = planned(examples=1600, **limit)
        assert cut.recipe.max_steps == cost_of(cut).steps == pytest.approx(150, abs=1)
        assert told(cut, "of 300 steps (50 % of it)")
    enough = planned(examples=1600, max_hours=cost.hours.value * 2)
    assert enough.recipe.max_steps == 0
    assert enough.warnings == whole.warnings


def test_a_recipe_that_keeps_the_limit_is_preferred_to_one_that_rules_prefer() -> None:
    model = a_model(1)
    free = planned(examples=1600, priority="memory")
    assert free.recipe.label == "QLoRA"
    fast = planned(examples=1600)
    assert fast.recipe.label == "LoRA"
    between = (cost_of(free).hours.value + cost_of(fast).hours.value) / 2
    kept = planned(examples=1600, priority="memory", max_hours=between)
    assert kept.recipe.label == "LoRA"
    assert (kept.recipe.max_steps, cost_of(kept).steps) == (0, 300)
    by_limit = next(each for each in kept.reasons if each.rule == "planner.chosen_by_limit")
    assert (by_limit.group, "QLoRA" in by_limit.sentence.en, f"{between:g} h" in by_limit.sentence.zh) == ("must", True, True)
    overridden = [each for each in kept.reasons if each.outcome == "overridden" and each.detail]
    assert any("does not keep within" in each.detail.en for each in overridden if each.detail)
    assert "over the limit" in next(each for each in kept.alternatives if each.label == "QLoRA").reason.en
    assert model.id == kept.estimate.model.id


def test_without_data_a_limit_gives_a_number_of_steps() -> None:
    plan = planned(max_hours=1)
    seconds = plan.estimate.throughput.seconds_per_step if plan.estimate.throughput else 0
    assert plan.recipe.max_steps == int(3600 / seconds)
    assert cost_of(plan).hours.value == pytest.approx(1, rel=0.01)
    assert told(plan, "--data would tell")


def test_limits_that_cannot_be_kept_or_applied_are_told() -> None:
    tiny = planned(max_hours=1e-6)
    assert told(tiny, "more than 1e-06 h allow; the plan does one step")
    assert tiny.recipe.max_steps == 1
    unpriced = planned(hardware=a_machine(a_gpu(24)), budget_usd=5)
    assert told(unpriced, "The price of Test GPU is not known")
    assert unpriced.recipe.max_steps == 0
    both = planned(hardware=a_machine(a_gpu(24)), budget_usd=5, max_hours=1)
    assert both.recipe.max_steps > 0
    assert planned(hardware=a_machine(a_gpu(24)), budget_usd=5, price_usd_per_gpu_hour=1.0).recipe.max_steps > 0


def test_a_card_of_ones_own_costs_nothing_whatever_the_budget() -> None:
    plan = planned(examples=1600, budget_usd=0.01, price_usd_per_gpu_hour=0)
    assert (plan.recipe.max_steps, plan.warnings) == (0, planned(examples=1600).warnings)
    assert cost_of(plan).usd == (0, 0, 0)


def test_the_document_keeps_the_duration_and_adds_the_cost() -> None:
    document = planned(examples=1600).to_json()["recommended"]
    cost = document["estimate"]["cost"]
    assert document["duration"]["steps"] == cost["steps"] == 300
    assert document["duration"]["hours"] == pytest.approx(cost["hours"], rel=1e-3)
    assert document["duration"]["cost_usd"] == pytest.approx(cost["usd"], rel=1e-3)
    assert planned().to_json()["recommended"]["duration"] is None


@settings(max_examples=30)
@given(share=st.floats(0.01, 3), billion=st.sampled_from([0.5, 1, 3, 7]), money=st.booleans())
def test_a_plan_never_takes_longer_than_it_may(share: float, billion: float, money: bool) -> None:
    whole = cost_of(planned(billion, examples=1600))
    limit = {"budget_usd": share * whole.usd.value} if money and whole.usd else {"max_hours": share * whole.hours.value}
    plan = planned(billion, examples=1600, **limit)
    cost = cost_of(plan)
    assert cost.usd is not None
    spent = cost.usd.value if money else cost.hours.value
    assert spent <= next(iter(limit.values())) * (1 + 1e-9) or cost.steps == 1
    assert (plan.recipe.max_steps == 0) == (not told(plan, "cut to") and cost.steps != 1)
