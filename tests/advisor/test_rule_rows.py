"""Every row of the selection tables: its situation goes in, its answer comes out, in both languages."""

from __future__ import annotations

import re
from typing import Any

import pytest
from advisor_stand_ins import some_facts

from ftadvise.advisor.rule_engine import Settings, matching, scores
from ftadvise.advisor.rule_schema import Rule, load_rules

RULES = {rule.id: rule for rule in load_rules()}
LORA, QLORA = {"approach": "lora"}, {"approach": "qlora"}

# row id -> a situation in which it speaks, one in which it does not, the approaches it prefers
PREFERENCES: dict[str, tuple[dict[str, Any], dict[str, Any], set[str]]] = {
    "gpu.high_end": ({"gpu_tier": "high_end"}, {"gpu_tier": "mid_low"}, {"lora", "qlora"}),
    "gpu.mid_low": ({"gpu_tier": "mid_low", "lora_headroom": -0.4}, {"gpu_tier": "high_end"}, {"qlora"}),
    "gpu.standard_server": ({"gpu_tier": "high_end", "lora_headroom": 0.4}, {"gpu_tier": "high_end", "lora_headroom": 0.1}, {"lora"}),
    "gpu.consumer_8gb": (
        {"gpu_form": "consumer", "gpu_memory_gib": 8, "lora_headroom": -1},
        {"gpu_form": "datacenter", "gpu_memory_gib": 8},
        {"qlora"},
    ),
    "size.le_7b": ({"model_parameters_billion": 7.72}, {"model_parameters_billion": 8.03}, {"lora", "qlora"}),
    "size.ge_13b": ({"model_parameters_billion": 13.9}, {"model_parameters_billion": 20}, {"qlora"}),
    "size.ge_30b": ({"model_parameters_billion": 46.7, "lora_headroom": -2}, {"model_parameters_billion": 20}, {"qlora"}),
    "task.research": ({"task": "research"}, {"task": "chat"}, {"lora"}),
    "task.prototype": ({"task": "prototype"}, {"task": "research"}, {"qlora"}),
    "task.chat": ({"task": "chat"}, {}, {"qlora"}),
    "task.multi_tenant": ({"task": "multi_tenant"}, {}, {"qlora"}),
    "task.edge": ({"task": "edge"}, {}, {"qlora"}),
    "team.beginner": ({"team": "beginner"}, {"team": "experienced"}, {"lora"}),
    "team.experienced": ({"team": "experienced"}, {"team": "beginner"}, {"qlora"}),
    "scene.rich": ({"lora_headroom": 0.6}, {"lora_headroom": 0.6, "has_gpu": False}, {"lora", "qlora"}),
    "scene.tight": ({"lora_headroom": 0.05}, {"lora_headroom": 0.3}, {"qlora"}),
    "scene.accuracy_first": ({"priority": "accuracy"}, {"priority": "cost"}, {"lora"}),
    "scene.cost_first": ({"priority": "cost"}, {"priority": "accuracy"}, {"qlora"}),
    "scene.iterate": ({"priority": "speed"}, {}, {"lora", "qlora"}),
    "scene.many_models": ({"task": "multi_tenant"}, {"task": "chat"}, {"qlora"}),
    "quant.int8": ({"priority": "accuracy", "lora_headroom": -0.2}, {"priority": "accuracy", "lora_headroom": 0.2}, {"lora_int8"}),
    "setup.single_a100": ({"gpu_name": "A100 SXM4 80GB"}, {"gpu_name": "A100 SXM4 80GB", "gpu_count": 2}, {"qlora"}),
    "setup.multi_gpu": ({"gpu_count": 2}, {"gpu_count": 1}, {"lora"}),
}
# row id -> a situation, one in which the row is silent, values before, values after
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "rank.range": (LORA, {"approach": "full"}, {"rank": 8}, {"rank": 16}),
    "rank.24gb": ({"gpu_memory_gib": 24, **LORA}, {"gpu_memory_gib": 48}, {"rank": 32}, {"rank": 16}),
    "rank.alpha": (LORA, {"approach": "full"}, {}, {"alpha_per_rank": 2}),
    "rank.raise_with_qlora": ({"qlora_headroom": 0.5, **QLORA}, {"qlora_headroom": 0.5, **LORA}, {"rank": 16}, {"rank": 32}),
    "lr.default": (QLORA, {"approach": "full"}, {}, {"learning_rate": 2e-4}),
    "lr.high_rank": ({"rank": 64, **QLORA}, {"rank": 16, **QLORA}, {"learning_rate": 2e-4}, {"learning_rate": 1e-4}),
    "batch.accumulate": (
        {"rank": 32, "lora_headroom": -0.1, **QLORA},
        {"rank": 32, "lora_headroom": 0.6, **QLORA},
        {"gradient_accumulation": 4},
        {"gradient_accumulation": 8},
    ),
    "dropout": (LORA, {"approach": "full"}, {"dropout": 0.0}, {"dropout": 0.05}),
    "quant.nf4": (QLORA, LORA, {"quantization": "fp4"}, {"quantization": "nf4"}),
    "quant.double": (QLORA, LORA, {"double_quantization": False}, {"double_quantization": True}),
}
# row id -> a situation, one in which it is silent, words of its advice
NOTES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "gpu.none": ({"has_gpu": False, "gpu_tier": "none"}, {}, "QLoRA on a GPU elsewhere.*GGUF, INT4"),
    "rank.48gb": ({"gpu_memory_gib": 48}, {"gpu_memory_gib": 24}, "r = 64"),
    "steps.high_rank": ({"rank": 32, **QLORA}, {"rank": 8, **QLORA}, "50-100 %"),
    "targets.attention": (LORA, {"approach": "full"}, "q, k, v"),
    "init": (LORA, {"approach": "full"}, "B as zeros"),
    "quant.compute_dtype": (QLORA, LORA, "float16"),
    "quant.keep_key_layers": ({"priority": "accuracy", **QLORA}, QLORA, "attention"),
    "memory.levers": ({"lora_headroom": -0.1}, {"lora_headroom": 0.1}, "checkpointing"),
    "speed.levers": ({"priority": "speed"}, {}, "FlashAttention"),
    "deploy.merge": (LORA, {"approach": "full"}, "merge A·B into W"),
    "deploy.quantise": ({"task": "edge"}, {"task": "chat"}, "GPTQ, GGUF"),
}


def _speaks(rule: Rule, situation: dict[str, Any]) -> bool:
    return bool(matching([rule], some_facts(**situation)))


def test_every_row_is_tested() -> None:
    assert PREFERENCES.keys() | SETTINGS.keys() | NOTES.keys() == RULES.keys()


@pytest.mark.parametrize("rule_id", PREFERENCES)
def test_a_row_prefers_what_the_table_says(rule_id: str) -> None:
    rule = RULES[rule_id]
    situation, other, preferred = PREFERENCES[rule_id]
    score = scores(matching([rule], some_facts(**situation)))
    assert {approach for approach, points in score.items() if points > 0} == preferred
    assert not _speaks(rule, other)


@pytest.mark.parametrize("rule_id", SETTINGS)
def test_a_row_sets_what_the_table_says(rule_id: str) -> None:
    rule = RULES[rule_id]
    situation, other, before, after = SETTINGS[rule_id]
    facts = some_facts(**situation)
    settings = Settings(dict(before))
    settings.apply(matching([rule], facts), facts.approach)  # type: ignore[arg-type]
    assert settings.values == after
    assert not _speaks(rule, other)


@pytest.mark.parametrize("rule_id", NOTES)
def test_a_row_advises_what_the_table_says(rule_id: str) -> None:
    rule = RULES[rule_id]
    situation, other, words = NOTES[rule_id]
    (match,) = matching([rule], some_facts(**situation))
    (effect,) = match.effects("note", "warn")
    assert effect.text is not None
    assert re.search(words, effect.text.en)
    assert not _speaks(rule, other)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_row_speaks_both_languages_and_names_its_source(rule: Rule) -> None:
    texts = [rule.sentence, rule.comment, *(effect.text for effect in rule.effects)]
    for text in filter(None, texts):
        assert re.search("[一-鿿]", text.zh)
        assert not re.search("[一-鿿]", text.en)
    assert re.fullmatch(r"D[0-3] (§[\d.]+|parts? [\d, and]+)(, D[0-3] (§[\d.]+|part \d))*", rule.source)


def test_limits_are_per_approach() -> None:
    rule = RULES["rank.24gb"]
    for approach, rank in (("lora", 16), ("qlora", 32)):
        settings = Settings({"rank": 64})
        settings.apply(matching([rule], some_facts(gpu_memory_gib=23.7)), approach)  # type: ignore[arg-type]
        assert settings.values["rank"] == rank


def test_a_small_model_makes_the_reason_of_small_cards_moot() -> None:
    (match,) = matching([RULES["gpu.mid_low"]], some_facts(gpu_tier="mid_low", lora_headroom=0.8))
    assert not match.premise_holds
    assert set(scores([match]).values()) == {0}


@pytest.mark.parametrize("size", [8.03, 10, 12, 15, 20, 29.9])
def test_no_size_rule_speaks_where_the_documents_are_silent(size: float) -> None:
    spoken = [match.rule.id for match in matching(RULES.values(), some_facts(model_parameters_billion=size))]
    assert not [rule_id for rule_id in spoken if rule_id.startswith("size.")]
