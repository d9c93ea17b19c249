"""Plans: what fits decides, then the rules; every rule's fate is told."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from advisor_stand_ins import a_gpu, a_machine, a_model, pricer, stand_in_estimate

from ftadvise.advisor.plan_types import Alternative, NoPlanError, Plan, PlanRequest, Reason
from ftadvise.advisor.planner import make_plan
from ftadvise.advisor.rule_schema import Effect
from ftadvise.advisor.rule_set import load_rules
from ftadvise.estimator.estimate_types import Estimate
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.hardware import Cpu, Hardware


def plan_for(billion: float, hardware: Hardware, **request: Any) -> Plan:
    model = a_model(billion)
    return make_plan(model, hardware, PlanRequest(**request), pricer(model, hardware))


def reason(plan: Plan, rule: str) -> Reason:
    return next(each for each in plan.reasons if each.rule == rule)


def alternative(plan: Plan, label: str) -> Alternative:
    return next(each for each in plan.alternatives if each.label == label)


# What fits, and what is preferred


def test_a_large_card_gets_lora_and_a_small_one_qlora() -> None:
    large, small = plan_for(7.7, a_machine(a_gpu(80))), plan_for(7.7, a_machine(a_gpu(12)))
    assert (large.recipe.label, small.recipe.label) == ("LoRA", "QLoRA")
    assert (small.recipe.quantization, small.recipe.double_quantization) == ("nf4", True)
    assert reason(large, "gpu.standard_server").outcome == "applied"
    assert reason(small, "gpu.mid_low").outcome == "applied"


def test_a_preference_that_does_not_fit_is_overridden_with_both_numbers() -> None:
    plan = plan_for(7.7, a_machine(a_gpu(12)), team="beginner")
    told = reason(plan, "team.beginner")
    assert told.outcome == "overridden"
    assert told.detail is not None
    assert re.fullmatch(r"team.beginner prefers LoRA, but LoRA needs 1\d\.\d GiB and 12\.0 GiB are available\.", told.detail.en)
    assert "放" in reason(plan, "planner.fits").sentence.zh
    assert "more than the 12.0 GiB available" in alternative(plan, "LoRA").reason.en
    assert not alternative(plan, "LoRA").estimate.memory.fits


def test_the_task_outweighs_the_card_and_the_conflict_is_told() -> None:
    plan = plan_for(7.7, a_machine(a_gpu(80)), task="chat")
    assert plan.recipe.label == "QLoRA"
    told = reason(plan, "gpu.standard_server")
    assert told.outcome == "outweighed"
    assert told.detail is not None
    assert "task.chat" in told.detail.en


def test_a_stated_priority_outweighs_task_and_team() -> None:
    plan = plan_for(7.7, a_machine(a_gpu(80)), task="chat", team="experienced", priority="accuracy")
    assert plan.recipe.label == "LoRA"
    assert plan.score > alternative(plan, "QLoRA").score


def test_accuracy_without_room_for_lora_takes_the_8_bit_base() -> None:
    plan = plan_for(13.9, a_machine(a_gpu(24)), priority="accuracy")
    assert plan.recipe.quantization == "int8"
    assert reason(plan, "quant.int8").outcome == "applied"
    assert reason(plan, "scene.accuracy_first").outcome == "overridden"


def test_a_row_whose_reason_does_not_hold_is_shown_but_not_counted() -> None:
    plan = plan_for(0.5, a_machine(a_gpu(12)), team="beginner")
    assert plan.recipe.label == "LoRA"
    told = reason(plan, "gpu.mid_low")
    assert told.outcome == "moot"
    assert told.detail is not None
    assert "LoRA needs" in told.detail.en


@pytest.mark.parametrize(("billion", "ends"), [(10, ("7B", "13B")), (20, ("13B", "30B"))])
def test_silence_of_the_documents_is_told(billion: float, ends: tuple[str, str]) -> None:
    plan = plan_for(billion, a_machine(a_gpu(16)))
    sentence = reason(plan, "planner.size_silent").sentence.en
    assert all(end in sentence for end in ends)
    assert "silent" in reason(plan, "planner.gpu_silent").sentence.en
    assert not [each for each in plan.reasons if each.rule.startswith("size.")]


def test_equal_scores_are_decided_by_speed_and_said_so() -> None:
    plan = plan_for(4, a_machine(a_gpu(16)))
    assert plan.recipe.label == "LoRA"
    assert plan.score == alternative(plan, "QLoRA").score
    assert "tokens/s against" in reason(plan, "planner.chosen_by_speed").sentence.en


# The recipe


def test_settings_follow_the_rules() -> None:
    lora, qlora = plan_for(7.7, a_machine(a_gpu(24))).recipe, plan_for(7.7, a_machine(a_gpu(12))).recipe
    assert (lora.rank, lora.alpha, lora.learning_rate, lora.dropout) == (16, 32, 1e-4, 0.05)
    assert (qlora.rank, qlora.alpha, qlora.learning_rate) == (32, 64, 1e-4)
    assert 8 <= qlora.gradient_accumulation <= 16
    assert (lora.adapter_dtype, qlora.adapter_dtype) == ("fp32", "bf16")
    assert lora.target_modules == ("all-linear",)


def test_a_replaced_setting_says_by_what() -> None:
    told = reason(plan_for(7.7, a_machine(a_gpu(12))), "lr.default")
    assert told.outcome == "outweighed"
    assert told.detail is not None
    assert "0.0002" in told.detail.en
    assert "0.0001" in told.detail.en


def test_the_number_format_follows_the_hardware() -> None:
    turing = a_gpu(16, supports_bf16=False, compute_capability=(7, 5))
    assert plan_for(1, a_machine(turing)).recipe.compute_dtype == "fp16"
    assert plan_for(7.7, a_machine(turing)).recipe.adapter_dtype == "fp32"
    assert plan_for(1, a_machine(a_gpu(16))).recipe.compute_dtype == "bf16"
    assert plan_for(0.1, a_machine()).recipe.compute_dtype == "fp32"
    with_amx = Cpu("Xeon", 8, 16, supports_bf16=True, supports_amx=True)
    assert plan_for(0.1, a_machine(cpu=with_amx)).recipe.compute_dtype == "bf16"


def test_sequence_length_follows_memory_and_model() -> None:
    assert plan_for(7.7, a_machine(a_gpu(12))).recipe.seq_len == 1024
    assert plan_for(7.7, a_machine(a_gpu(80))).recipe.seq_len == 2048
    assert plan_for(0.1, a_machine()).recipe.seq_len == 512
    short = a_model(1, max_position=512)
    hardware = a_machine(a_gpu(24))
    assert make_plan(short, hardware, PlanRequest(), pricer(short, hardware)).recipe.seq_len == 512


def test_sequences_are_shortened_before_giving_up() -> None:
    plan = plan_for(70, a_machine(a_gpu(46.5)))
    assert plan.recipe.seq_len < 2048
    assert any("shortened" in warning.en for warning in plan.warnings)


def test_flags_are_kept_and_told() -> None:
    fixed = {"rank": 128, "alpha": 16, "seq_len": 4096, "micro_batch": 3, "learning_rate": 3e-4, "gradient_checkpointing": True}
    plan = plan_for(1, a_machine(a_gpu(24)), fixed=fixed)
    assert {name: getattr(plan.recipe, name) for name in fixed} == fixed
    assert reason(plan, "rank.range").outcome == "fixed"
    assert reason(plan, "rank.alpha").outcome == "fixed"
    assert any("rank = 128" in warning.en for warning in plan.warnings)


def test_a_fixed_method_is_kept_against_the_rules() -> None:
    plan = plan_for(7.7, a_machine(a_gpu(80)), task="research", fixed={"method": "qlora"})
    assert plan.recipe.label == "QLoRA"
    assert reason(plan, "task.research").outcome == "fixed"
    assert reason(plan, "planner.asked_for").group == "must"
    assert plan_for(1, a_machine(a_gpu(80)), fixed={"method": "full"}).recipe.method == "full"


def test_the_facts_describe_the_situation_whatever_method_is_fixed() -> None:
    roomy = plan_for(1, a_machine(a_gpu(80)), fixed={"method": "qlora"})
    assert "scene.tight" not in [each.rule for each in roomy.reasons]


# Machines


def test_a_cpu_gets_a_runnable_recipe_and_the_advice_to_train_elsewhere() -> None:
    plan = plan_for(0.135, a_machine(), task="chat")
    assert (plan.recipe.label, plan.recipe.compute_dtype) == ("LoRA", "fp32")
    assert reason(plan, "gpu.none").outcome == "applied"
    assert reason(plan, "task.chat").outcome == "elsewhere"
    warnings = " ".join(warning.en for warning in plan.warnings)
    assert "train with QLoRA on a GPU elsewhere" in warnings
    assert "tokens/s" in warnings
    assert "LoRA on int8" not in [each.label for each in plan.alternatives]


def test_a_large_model_on_a_cpu_is_warned_of_strongly() -> None:
    plan = plan_for(7.7, a_machine())
    warnings = " ".join(warning.en for warning in plan.warnings)
    assert "not practical" in warnings
    assert "NF4 on a CPU works but is slow" in warnings


def test_gpus_of_different_size_are_told() -> None:
    mixed = plan_for(1, a_machine(a_gpu(24), a_gpu(8, "Small one")))
    assert any("Small one" in warning.en for warning in mixed.warnings)


def test_without_bitsandbytes_the_base_stays_unquantised() -> None:
    gpu = a_gpu(24, "Other GPU", supports_bitsandbytes=False)
    plan = plan_for(1, a_machine(gpu), task="chat")
    assert plan.recipe.quantization == "none"
    told = reason(plan, "task.chat")
    assert told.outcome == "overridden"
    assert told.detail is not None
    assert "bitsandbytes does not support Other GPU" in told.detail.en
    with pytest.raises(InputError, match="bitsandbytes"):
        plan_for(1, a_machine(gpu), fixed={"method": "qlora"})


def test_models_that_need_a_word() -> None:
    model = a_model(1, kind="vision_language", remote_code=True, special=("mla",))
    hardware = a_machine(a_gpu(24))
    plan = make_plan(model, hardware, PlanRequest(), pricer(model, hardware))
    warnings = " ".join(warning.en for warning in plan.warnings)
    assert "language part only" in warnings
    assert "--trust-remote-code" in warnings
    assert "interval is wider" in warnings


@pytest.mark.parametrize("kind", ["encoder", "seq2seq"])
def test_other_kinds_of_models_are_refused(kind: Any) -> None:
    model = a_model(0.1, kind=kind)
    hardware = a_machine(a_gpu(24))
    with pytest.raises(InputError, match="causal language models only"):
        make_plan(model, hardware, PlanRequest(), pricer(model, hardware))


# Nothing fits


def test_nothing_fits_says_what_would_have_to_change() -> None:
    with pytest.raises(NoPlanError) as raised:
        plan_for(70, a_machine(a_gpu(12)))
    assert raised.value.exit_code == 3
    assert "12.0 GiB are available" in str(raised.value)
    hint = str(raised.value.hint)
    assert "a GPU with at least" in hint


@pytest.mark.parametrize(
    ("fixed", "change"),
    [
        ({"seq_len": 32768}, r"--seq-len \d+ would fit"),
        ({"micro_batch": 64}, r"--micro-batch \d+ would fit"),
        ({"method": "lora", "quantization": "none"}, "--method qlora would fit"),
        ({"gradient_checkpointing": False, "seq_len": 4096}, "--gradient-checkpointing would fit"),
    ],
)
def test_the_smallest_change_of_a_flag_is_found_and_true(fixed: dict[str, Any], change: str) -> None:
    hardware = a_machine(a_gpu(12))
    with pytest.raises(NoPlanError) as raised:
        plan_for(7.7, hardware, fixed=fixed)
    assert re.search(change, str(raised.value.hint))
    priced = [each.estimate for each in raised.value.changes if each.estimate is not None]
    assert priced
    assert all(stand_in_estimate(estimate.model, hardware, estimate.recipe).memory.fits for estimate in priced)


def test_contradicting_flags_are_refused() -> None:
    with pytest.raises(InputError, match="full fine-tuning cannot train a nf4 base"):
        plan_for(1, a_machine(a_gpu(24)), fixed={"method": "full", "quantization": "nf4"})
    with pytest.raises(InputError, match="rank must be"):
        plan_for(1, a_machine(a_gpu(24)), fixed={"rank": -3})
    with pytest.raises(InputError, match="seq_len must be"):
        plan_for(1, a_machine(a_gpu(24)), fixed={"seq_len": "long"})


def test_an_approach_that_cannot_be_priced_is_left_out() -> None:
    model, hardware = a_model(7.7), a_machine(a_gpu(80))

    def price(recipe: Recipe) -> Estimate:
        if recipe.quantization == "int8":
            raise InputError("int8 is not supported")
        return stand_in_estimate(model, hardware, recipe)

    assert "LoRA on int8" not in [each.label for each in make_plan(model, hardware, PlanRequest(), price).alternatives]
    with pytest.raises(InputError, match="int8 is not supported"):
        make_plan(model, hardware, PlanRequest(fixed={"quantization": "int8"}), price)


def test_rules_can_require_and_forbid() -> None:
    model, hardware = a_model(1), a_machine(a_gpu(24))
    research = next(rule for rule in load_rules() if rule.id == "task.research")
    for effects, label in (((Effect("forbid", ("lora",)),), "QLoRA"), ((Effect("require", ("full",)),), "full fine-tuning")):
        rule = dataclasses.replace(research, effects=effects)
        plan = make_plan(model, hardware, PlanRequest(task="research"), pricer(model, hardware), rules=(rule,))
        assert plan.recipe.label == label
        told = reason(plan, "task.research")
        assert (told.group, told.outcome) == ("must", "applied")


def test_a_price_without_speed_still_gives_a_plan() -> None:
    model, hardware = a_model(1), a_machine(a_gpu(24))
    request = PlanRequest(max_hours=1, examples=100)
    plan = make_plan(
        model, hardware, request, lambda recipe: dataclasses.replace(stand_in_estimate(model, hardware, recipe), throughput=None)
    )
    assert plan.cost is None
    assert plan.bottleneck is None
    assert any("speed of this recipe is not known" in warning.en for warning in plan.warnings)
    assert all("tokens/s" not in each.reason.en for each in plan.alternatives)


# Limits and documents


def test_the_document_has_the_contract_of_the_design() -> None:
    plan = plan_for(7.7, a_machine(a_gpu(12)), team="beginner", fixed={"target_modules": ("q_proj",)})
    document = plan.to_json()
    assert document["schema"] == "ftadvise.plan/1"
    assert document["recommended"]["estimate"]["schema"] == "ftadvise.estimate/1"
    assert document["recommended"]["recipe"] == document["recommended"]["estimate"]["recipe"] == plan.recipe.to_dict()
    assert document["request"]["fixed"] == {"target_modules": ["q_proj"]}
    for each in document["alternatives"]:
        assert each["estimate"]["schema"] == "ftadvise.estimate/1"
        assert each["reason"] != each["reason_zh"]
    first = next(each for each in document["reasons"] if each["rule"] == "team.beginner")
    assert (first["group"], first["outcome"], first["effect"], first["source"]) == ("should", "overridden", "prefer lora", "D0 §3.5")
    assert first["sentence"] != first["sentence_zh"]
    groups = [each["group"] for each in document["reasons"]]
    assert groups == sorted(groups, key=["must", "should", "choice"].index)
    assert plan.reasons_in("must")[0].rule == "planner.fits"
