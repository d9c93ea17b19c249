"""Golden plans: real models on real cards with the real estimator."""

from __future__ import annotations

from typing import Any

import pytest

import ftadvise
from ftadvise.advisor.plan_types import NoPlanError, Plan, PlanRequest
from ftadvise.advisor.planner import make_plan
from ftadvise.estimator.estimate import estimate
from ftadvise.profiles.probe import named_hardware
from ftadvise.profiles.resolve_model import resolve_model


def plan_for(model_name: str, gpu: str, **request: Any) -> Plan:
    model, hardware = resolve_model(model_name), named_hardware(gpu)
    return make_plan(model, hardware, PlanRequest(**request), lambda recipe: estimate(model, hardware, recipe))


@pytest.mark.parametrize(
    ("model", "gpu", "request_", "label", "applied"),
    [
        ("Qwen-7B", "RTX 4090", {}, "LoRA", {"gpu.high_end", "gpu.standard_server", "size.le_7b", "rank.24gb"}),
        ("Qwen-7B", "RTX 3060 12GB", {}, "QLoRA", {"gpu.mid_low", "gpu.consumer_8gb", "scene.tight", "quant.nf4"}),
        ("Qwen-7B", "A100-80GB", {}, "LoRA", {"gpu.standard_server", "rank.48gb", "scene.rich"}),
        ("Qwen-7B", "A100-80GB", {"task": "chat"}, "QLoRA", {"task.chat", "setup.single_a100"}),
        ("Qwen-7B", "RTX 2080 Ti", {}, "QLoRA", {"gpu.mid_low", "quant.compute_dtype"}),
        ("Baichuan2-13B-Base", "RTX 4090", {}, "QLoRA", {"size.ge_13b", "scene.tight"}),
        ("Baichuan2-13B-Base", "RTX 4090", {"priority": "accuracy"}, "LoRA on int8", {"quant.int8"}),
        ("Llama-2-70b-hf", "A100-80GB", {}, "QLoRA", {"size.ge_30b"}),
    ],
)
def test_golden_plans(model: str, gpu: str, request_: dict[str, Any], label: str, applied: set[str]) -> None:
    plan = plan_for(model, gpu, **request_)
    assert plan.recipe.label == label
    assert applied <= {reason.rule for reason in plan.reasons if reason.outcome == "applied"}
    assert plan.estimate.memory.fits


def test_a_beginner_on_a_small_card_is_told_why_not_lora() -> None:
    plan = plan_for("Qwen-7B", "RTX 3060 12GB", team="beginner")
    told = next(reason for reason in plan.reasons if reason.rule == "team.beginner")
    assert told.detail is not None
    assert "team.beginner prefers LoRA, but LoRA needs" in told.detail.en


def test_65b_does_not_fit_24_gb() -> None:
    with pytest.raises(NoPlanError, match="nothing fits"):
        plan_for("Llama-2-70b-hf", "RTX 4090")


def test_a_mixture_of_experts_says_that_its_experts_stay_unquantised() -> None:
    plan = ftadvise.plan("Mixtral-8x7B-v0.1", gpu="H200 SXM 141GB", method="qlora")
    assert any("experts of mistralai/Mixtral-8x7B-v0.1" in warning.en and "融合参数" in warning.zh for warning in plan.warnings)
    with pytest.raises(NoPlanError, match="does not quantise"):
        ftadvise.plan("Mixtral-8x7B-v0.1", gpu="A100-80GB")
    dense = ftadvise.plan("Qwen-7B", gpu="RTX 3060 12GB")
    assert not any("experts" in warning.en for warning in dense.warnings)
