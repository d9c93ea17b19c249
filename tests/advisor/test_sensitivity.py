"""Sensitivity: the next longer sequence, larger batch and higher rank, priced."""

from __future__ import annotations

from advisor_stand_ins import a_gpu, a_machine, a_model, pricer, stand_in_estimate

from ftadvise.advisor.plan_types import Plan, PlanRequest
from ftadvise.advisor.planner import make_plan
from ftadvise.estimator.lengths import LengthStats


def plan_for(request: PlanRequest, memory: float = 24) -> Plan:
    model, hardware = a_model(7.7), a_machine(a_gpu(memory))
    return make_plan(model, hardware, request, pricer(model, hardware))


def test_each_size_is_doubled_and_priced() -> None:
    plan = plan_for(PlanRequest())
    rows = {row.field: row for row in plan.sensitivity}
    assert rows["seq_len"].estimate.recipe.seq_len == 2 * plan.recipe.seq_len
    assert rows["micro_batch"].estimate.recipe.sequences_per_step == plan.recipe.sequences_per_step
    assert rows["rank"].estimate.recipe.rank == 2 * plan.recipe.rank
    for row in plan.sensitivity:
        assert row.estimate == stand_in_estimate(plan.estimate.model, plan.estimate.hardware, row.estimate.recipe)
        document = row.to_json(plan.estimate)
        assert document["more_bytes"] == row.estimate.memory.device_used_bytes - plan.estimate.memory.device_used_bytes
    assert [row["field"] for row in plan.to_json()["recommended"]["sensitivity"]] == [row.field for row in plan.sensitivity]


def test_the_longest_sequences_fit_and_twice_as_long_ones_do_not() -> None:
    plan = plan_for(PlanRequest())
    longest = next(row for row in plan.sensitivity if row.field == "longest").estimate
    assert longest.memory.verdict == "fits"
    model, hardware = plan.estimate.model, plan.estimate.hardware
    twice = longest.recipe.replace(seq_len=2 * longest.recipe.seq_len)
    assert twice.seq_len > (model.max_position or 0) or stand_in_estimate(model, hardware, twice).memory.verdict != "fits"


def test_covered_data_needs_no_longer_sequences() -> None:
    covered = plan_for(PlanRequest(lengths=LengthStats((100, 200, 300), measured=True)))
    assert {row.field for row in covered.sensitivity} == {"micro_batch", "rank"}
    full = plan_for(PlanRequest(fixed={"method": "full"}), memory=160)
    assert "rank" not in {row.field for row in full.sensitivity}
