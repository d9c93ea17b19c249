"""Rules of one's own: layers, overriding, what requires what, and files that are no rule files."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from advisor_stand_ins import a_gpu, a_machine, a_model, pricer, some_facts
from hypothesis import given, settings
from hypothesis import strategies as st

import ftadvise
from ftadvise.advisor.plan_types import Plan, PlanRequest
from ftadvise.advisor.planner import make_plan
from ftadvise.advisor.rule_engine import matching
from ftadvise.advisor.rule_impact import rule_impact
from ftadvise.advisor.rule_set import active_rules, check_rules, load_rules
from ftadvise.profiles.errors import InputError


@pytest.fixture(autouse=True)
def own_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FTADVISE_CONFIG_DIR", str(tmp_path / "config"))
    folder = tmp_path / "config" / "rules"
    folder.mkdir(parents=True)
    return folder


def rule(rule_id: str, **fields: Any) -> str:
    values = {"when": "has_gpu", "effect": "[{note: because}]", "weight": 1, "sentence": "because", "source": "our wiki"} | fields
    return f"- id: {rule_id}\n" + "".join(f"  {key}: {value}\n" for key, value in values.items())


def rule_file(path: Path, *rules: str) -> Path:
    path.write_text("table: Ours\nrules:\n" + "".join(rules), encoding="utf-8")
    return path


LORA = "[{prefer: lora}]"


# Layers


def test_without_rules_of_ones_own_the_packaged_ones_are_active() -> None:
    assert active_rules() == load_rules()


def test_a_new_rule_is_added_and_a_known_id_is_replaced_in_its_place(tmp_path: Path) -> None:
    path = rule_file(tmp_path / "my.yaml", rule("our.rule"), rule("gpu.mid_low", when="gpu_tier == 'mid_low'", effect=LORA, weight=20))
    rules = active_rules([path])
    assert [each.id for each in rules] == [*(each.id for each in load_rules()), "our.rule"]
    mine = {each.id: each for each in rules if each.own}
    assert (mine["our.rule"].replaces, mine["our.rule"].file) == (None, str(path))
    assert (mine["gpu.mid_low"].replaces, mine["gpu.mid_low"].weight) == ("gpu_tier.yaml", 20)
    assert mine["our.rule"].sentence.zh == mine["our.rule"].sentence.en == "because"


def test_a_file_of_the_command_line_comes_over_the_users_folder(tmp_path: Path, own_config: Path) -> None:
    rule_file(own_config / "a.yaml", rule("our.rule", weight=2), rule("dropout", weight=2))
    assert {each.id: each.weight for each in active_rules() if each.own} == {"our.rule": 2, "dropout": 2}
    over = active_rules([rule_file(tmp_path / "b.yaml", rule("our.rule", weight=3))])
    assert {each.id: (each.weight, each.replaces) for each in over if each.own} == {
        "our.rule": (3, str(own_config / "a.yaml")),
        "dropout": (2, "hyper_parameters.yaml"),
    }


def test_one_id_twice_in_a_set_of_files_is_refused(tmp_path: Path) -> None:
    first, second = (rule_file(tmp_path / name, rule("our.rule")) for name in ("a.yaml", "b.yaml"))
    with pytest.raises(InputError, match=r"b\.yaml, line 3, rule our\.rule, key 'id': the id 'our\.rule' is already used in .*a\.yaml"):
        active_rules([first, second])


def test_a_rule_is_switched_off_by_one_that_is_never_true(tmp_path: Path) -> None:
    rules = active_rules([rule_file(tmp_path / "my.yaml", rule("dropout", when="false"))])
    assert "dropout" not in [match.rule.id for match in matching(rules, some_facts(approach="lora"))]


# The plan


def planned(path: Path | None, **request: Any) -> Plan:
    return ftadvise.plan("Qwen-7B", gpu="RTX 3060 12GB", request=PlanRequest(**request), rules=[path] if path else [])


def test_a_plan_follows_the_users_rules_and_says_whose_they_are(tmp_path: Path) -> None:
    path = rule_file(
        tmp_path / "my.yaml",
        rule("our.rank", when='approach == "qlora"', effect="[{set: {rank: 8}}]", weight=5),
        rule("quant.double", when='approach == "qlora"', effect="[{set: {double_quantization: false}}]", weight=2),
    )
    plan = planned(path)
    assert (plan.recipe.rank, plan.recipe.double_quantization) == (8, False)
    told = {each.rule: each for each in plan.reasons}
    assert told["our.rank"].origin is not None
    assert told["our.rank"].origin.en == f"your own, {path}"
    assert told["quant.double"].origin is not None
    assert "in place of the one in quantization.yaml" in told["quant.double"].origin.en
    assert "取代 quantization.yaml" in told["quant.double"].origin.zh
    assert told["rank.raise_with_qlora"].outcome == "outweighed"
    assert told["rank.raise_with_qlora"].origin is None
    reasons = {each["rule"]: each for each in plan.to_json()["reasons"]}
    assert reasons["our.rank"]["origin"] == f"your own, {path}"
    assert planned(None).recipe.rank == 32


def test_a_heavier_rule_wins_wherever_it_stands(tmp_path: Path) -> None:
    """A situation's rule comes first, an approach's later; a weight decides between them all the same."""
    light = rule_file(tmp_path / "light.yaml", rule("our.rank", effect="[{set: {rank: 8}}]", weight=1))
    heavy = rule_file(tmp_path / "heavy.yaml", rule("our.rank", effect="[{set: {rank: 8}}]", weight=3))
    assert [planned(path).recipe.rank for path in (light, heavy)] == [32, 8]


def test_a_rule_whose_reason_does_not_hold_changes_nothing(tmp_path: Path) -> None:
    path = rule_file(
        tmp_path / "my.yaml", rule("our.rank", premise="lora_fits", effect="[{set: {rank: 8}}, {warn: Mind the rank.}]", weight=9)
    )
    plan = planned(path)
    assert plan.recipe.rank == 32
    assert "Mind the rank." not in [warning.en for warning in plan.warnings]
    assert next(each for each in plan.reasons if each.rule == "our.rank").outcome == "moot"


# Requires


def test_a_rule_speaks_only_with_those_it_requires(tmp_path: Path) -> None:
    path = rule_file(
        tmp_path / "my.yaml",
        rule("our.base", when="gpu_count > 1", premise="lora_headroom > 0"),
        rule("our.middle", requires="our.base"),
        rule("our.top", requires="[our.middle, gpu.high_end]"),
    )
    rules = [each for each in active_rules([path]) if each.own]

    def spoken(**facts: Any) -> list[str]:
        return [match.rule.id for match in matching(rules, some_facts(**facts))]

    assert spoken() == []
    assert spoken(gpu_count=2) == ["our.base", "our.middle"]
    assert spoken(gpu_count=2, gpu_tier="high_end") == ["our.base", "our.middle", "our.top"]
    assert spoken(gpu_count=2, gpu_tier="high_end", lora_headroom=-1) == ["our.base"]


def test_what_requires_a_replaced_rule_requires_the_new_one(tmp_path: Path) -> None:
    path = rule_file(tmp_path / "my.yaml", rule("quant.nf4", when="false"))
    rules = active_rules([path])
    spoken = [match.rule.id for match in matching(rules, some_facts(approach="qlora"))]
    assert not {"quant.nf4", "quant.double"} & set(spoken)


@pytest.mark.parametrize(
    ("rules", "line", "message", "hint"),
    [
        ([rule("a", requires="b"), rule("b", requires="[c]"), rule("c", requires="a")], 9, "a -> b -> c -> a", None),
        ([rule("a", requires="a")], 9, "require each other: a -> a", None),
        ([rule("a", requires="gpu.midlow")], 9, "requires the unknown rule 'gpu.midlow'", "gpu.mid_low"),
        ([rule("a", effect=LORA, requires="rank.alpha")], 9, "known only with the approach, too late for its effect", None),
        ([rule("a", effect="[{set: {rank: 4}}]", requires="lr.high_rank")], 9, "known only with the rank, too late", None),
    ],
)
def test_requirements_that_cannot_be_met_are_refused(tmp_path: Path, rules: list[str], line: int, message: str, hint: str | None) -> None:
    path = rule_file(tmp_path / "my.yaml", *rules)
    with pytest.raises(InputError) as raised:
        active_rules([path])
    assert "key 'requires'" in str(raised.value)
    assert message in str(raised.value)
    assert f"line {line}" in str(raised.value) or len(rules) > 1
    assert hint is None or hint in str(raised.value.hint)


# Files


def test_a_check_names_everything_that_is_wrong_and_what_is_in_order(tmp_path: Path) -> None:
    path = rule_file(
        tmp_path / "my.yaml",
        rule("our.good"),
        rule("our.fact", when="gpu_cuont > 1"),
        rule("our.weight", weight=0),
        rule("our.good"),
        rule("our.needs", requires="our.nothing"),
    )
    rules, problems = check_rules([path, tmp_path / "missing.yaml"])
    assert [each.id for each in rules] == ["our.good"]
    told = [str(each) for each in problems]
    assert [line.split(": ")[-1] for line in told[:2]] == [
        "unknown fact 'gpu_cuont'",
        "weight must be a whole number from 1 to 1000, not 0",
    ]
    assert [any(words in line for line in told) for words in ("no such file", "already used", "unknown rule 'our.nothing'")] == [True] * 3
    assert len(told) == 5
    assert all("line" in line for line in told if "missing.yaml" not in line)


@pytest.mark.parametrize(
    "content",
    [
        "rules: [",
        "!!python/object/apply:os.system [true]",
        "table: !!python/name:os.system ''\nrules: []",
        "a: &a [x]\nb: [*a, *a, *a]",
        "[" * 5000,
        "table: T\nrules: " + "{a: " * 3000,
        "\x00",
        "table: T\ntable: U\nrules: []",
        "table: T\nrules: [{id: 2024-01-01}]",
    ],
    ids=range(9),
)
def test_a_hostile_file_is_one_line_of_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"my\.yaml"):
        active_rules([path])
    assert check_rules([path])[1]


def test_what_is_no_regular_file_or_too_large_is_not_read(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(InputError, match="larger than 1 MiB"):
        active_rules([large])
    with pytest.raises(InputError, match="not a regular file"):
        active_rules([tmp_path])
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.yaml")
        with pytest.raises(InputError, match="not a regular file"):
            active_rules([tmp_path / "pipe.yaml"])


# The order of rules


@settings(max_examples=25)
@given(
    st.sampled_from([0.5, 3, 7.7, 13.9, 34]),
    st.sampled_from([8, 12, 24, 48, 80]),
    st.sampled_from([None, "research", "chat", "edge"]),
    st.sampled_from([None, "beginner", "experienced"]),
    st.sampled_from([None, "accuracy", "speed", "memory"]),
    st.randoms(use_true_random=False),
)
def test_the_order_of_rules_changes_no_recommendation(
    billion: float, memory: float, task: Any, team: Any, priority: Any, shuffler: random.Random
) -> None:
    model, hardware = a_model(billion), a_machine(a_gpu(memory))
    request = PlanRequest(task=task, team=team, priority=priority)
    shuffled = list(load_rules())
    shuffler.shuffle(shuffled)

    def outcome(rules: tuple[Any, ...]) -> Any:
        try:
            plan = make_plan(model, hardware, request, pricer(model, hardware), rules=rules)
        except ftadvise.advisor.NoPlanError as error:
            return str(error)
        return plan.recipe, plan.score, plan.alternatives, set(plan.reasons), set(plan.warnings), plan.bottleneck

    assert outcome(load_rules()) == outcome(tuple(shuffled))


# What a rule changes


def test_the_impact_of_a_rule_is_the_plans_it_changes(tmp_path: Path) -> None:
    impact = rule_impact("task.chat")
    assert impact.speaks == 4
    (changed,) = [each for each in impact.changed if each.situation.startswith("Qwen-7B, A100-80GB")]
    assert changed.situation == "Qwen-7B, A100-80GB, --task chat"
    assert changed.changes[0] == ("approach", "LoRA", "QLoRA")


def test_the_impact_of_a_rule_of_ones_own(tmp_path: Path) -> None:
    path = rule_file(tmp_path / "my.yaml", rule("our.rank", when="has_gpu", effect="[{set: {rank: 8}}]", weight=9))
    impact = rule_impact("our.rank", [path])
    assert impact.speaks == impact.situations
    assert all(("rank", "32", "8") in each.changes or ("rank", "16", "8") in each.changes for each in impact.changed)
    assert len(impact.changed) > 0.9 * impact.situations
