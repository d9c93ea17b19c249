"""What holds for every plan: it fits, it is repeatable, more memory is never worse, flags stay as given."""

from __future__ import annotations

from typing import Any

from advisor_stand_ins import a_gpu, a_machine, a_model, pricer, stand_in_estimate
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.advisor.plan_types import NoPlanError, PlanRequest
from ftadvise.advisor.planner import find, make_plan, remembered
from ftadvise.advisor.rule_set import load_rules
from ftadvise.advisor.search import comparable_speed, preference
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError

TASKS = [None, "research", "prototype", "chat", "multi_tenant", "edge"]
TEAMS = [None, "beginner", "experienced"]
PRIORITIES = [None, "accuracy", "cost", "speed", "memory"]


@given(
    billion=st.floats(0.1, 80), memory=st.floats(4, 160), task=st.sampled_from(TASKS), team=st.sampled_from(TEAMS),
    priority=st.sampled_from(PRIORITIES), count=st.integers(0, 2),
)  # fmt: skip
def test_every_plan_fits_and_is_repeatable(billion: float, memory: float, task: Any, team: Any, priority: Any, count: int) -> None:
    model = a_model(billion)
    hardware = a_machine(*[a_gpu(memory)] * count)
    calls: list[Recipe] = []
    request = PlanRequest(task=task, team=team, priority=priority)
    try:
        plan = make_plan(model, hardware, request, pricer(model, hardware, calls))
    except NoPlanError:
        assert not any(stand_in_estimate(model, hardware, recipe).memory.fits for recipe in calls)
        return
    assert plan.estimate.memory.fits
    assert len(calls) == len(set(calls)) < 100
    again = make_plan(model, hardware, request, pricer(model, hardware))
    assert again.to_json() == plan.to_json()
    assert {each.outcome for each in plan.reasons} <= {"applied", "overridden", "outweighed", "moot", "elsewhere"}


_ABOUT_MEMORY = {"gpu_tier", "gpu_memory_gib", "available_gib", "lora_headroom", "qlora_headroom", "lora_fits", "qlora_fits", "qlora_saves"}


@given(
    billion=st.floats(0.1, 40), memory=st.floats(6, 80), more=st.floats(0, 80), task=st.sampled_from(TASKS),
    team=st.sampled_from(TEAMS), priority=st.sampled_from(["cost", "speed", None]),
)  # fmt: skip
def test_more_memory_never_gives_a_worse_plan(billion: float, memory: float, more: float, task: Any, team: Any, priority: Any) -> None:
    # The rules about memory itself change with it; by the others a larger card is served at least as well, then it is as fast or faster.
    rules = tuple(rule for rule in load_rules() if not (rule.when.names | (rule.premise.names if rule.premise else set())) & _ABOUT_MEMORY)
    model = a_model(billion)
    request = PlanRequest(task=task, team=team, priority=priority, fixed={"seq_len": 512})
    found: list[tuple[float, ...]] = []
    for size in (memory, memory + more):
        hardware = a_machine(a_gpu(size))
        result, _, _ = find(model, hardware, request, remembered(pricer(model, hardware), request), rules)
        chosen = result.chosen
        found.append((*preference(chosen), comparable_speed(chosen.best)) if chosen else (-1,))
    assert found[1] >= found[0]


@given(billion=st.floats(0.1, 80), memory=st.floats(4, 160), count=st.integers(0, 4), seq_len=st.sampled_from([512, 1024, 2048, 4096]))
def test_a_shorter_sequence_never_stops_fitting(billion: float, memory: float, count: int, seq_len: int) -> None:
    model, hardware = a_model(billion), a_machine(*[a_gpu(memory)] * count)

    def fits(length: int) -> bool:
        try:
            return make_plan(model, hardware, PlanRequest(fixed={"seq_len": length}), pricer(model, hardware)).estimate.memory.fits
        except NoPlanError:
            return False

    assert fits(seq_len // 2) >= fits(seq_len)


_FLAGS = {
    "method": st.sampled_from(["lora", "full", "dora"]), "rank": st.integers(1, 128), "micro_batch": st.integers(1, 8),
    "seq_len": st.integers(128, 4096), "gradient_checkpointing": st.booleans(), "gradient_accumulation": st.integers(1, 32),
    "optimizer": st.sampled_from(["adamw_torch", "adamw_8bit", "sgd"]), "learning_rate": st.floats(1e-6, 1e-2),
    "quantization": st.sampled_from(["none", "nf4"]), "packing": st.booleans(), "sharding": st.sampled_from(["ddp", "zero2", "zero3"]),
}  # fmt: skip


@given(fixed=st.fixed_dictionaries({}, optional=_FLAGS), billion=st.floats(0.1, 20), count=st.integers(1, 4), task=st.sampled_from(TASKS))
def test_flags_stay_as_given(fixed: dict[str, Any], billion: float, count: int, task: Any) -> None:
    model, hardware = a_model(billion), a_machine(*[a_gpu(48)] * count)
    try:
        plan = make_plan(model, hardware, PlanRequest(fixed=fixed, task=task), pricer(model, hardware))
    except (InputError, NoPlanError):
        return
    assert {name: getattr(plan.recipe, name) for name in fixed} == fixed
