"""The rule engine: scores, hard effects, settings, and what must not matter."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from advisor_stand_ins import some_facts
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.advisor.facts import Facts, fact_types
from ftadvise.advisor.rule_engine import Settings, allowed, matching, scores
from ftadvise.advisor.rule_schema import Rule
from ftadvise.advisor.rule_set import load_rules


def rules_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *effects: str) -> tuple[Rule, ...]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    text = "table: {en: T, zh: 表}\nrules:\n"
    for n, effect in enumerate(effects):
        text += f"- {{id: r{n}, when: has_gpu, effect: [{effect}], weight: {n + 1}, sentence: {{en: a, zh: 一}}, source: D0}}\n"
    folder = tmp_path / "rules"
    folder.mkdir()
    (folder / "r.yaml").write_text(text, encoding="utf-8")
    return load_rules(folder)


def test_scores_add_and_subtract_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matches = matching(rules_from(tmp_path, monkeypatch, "prefer: [lora, qlora]", "discourage: lora", "prefer: full"), some_facts())
    assert scores(matches) == {"lora": -1, "qlora": 1, "full": 3, "lora_int8": 0}


def test_require_and_forbid_rule_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matches = matching(rules_from(tmp_path, monkeypatch, "require: [lora, qlora]", "forbid: lora"), some_facts())
    assert allowed(matches) == ("qlora",)
    assert allowed(()) == ("lora", "lora_int8", "qlora", "full")


def test_later_settings_win_and_limits_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = rules_from(
        tmp_path, monkeypatch, "at_most: {rank: 32}", "set: {rank: 8}", "{set: {rank: 64}, for: qlora}", "at_least: {dropout: 0.1}"
    )
    settings = Settings({"rank": 16, "dropout": 0.0})
    settings.apply(matching(rules, some_facts()), "qlora")
    assert settings.values == {"rank": 32, "dropout": 0.1}
    assert settings.inside("rank", 100) == 32


def test_rules_never_change_what_the_user_fixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = rules_from(tmp_path, monkeypatch, "set: {rank: 8}", "at_most: {rank: 32}")
    settings = Settings({"rank": 64}, locked=frozenset({"rank"}))
    settings.apply(matching(rules, some_facts()), "lora")
    assert settings.values == {"rank": 64}


_FACTS: dict[str, Any] = {
    name: st.sampled_from(values) if values else {"bool": st.booleans(), "number": st.floats(-2, 200), "text": st.text(max_size=8)}[kind]
    for name, (kind, values) in fact_types().items()
}


@given(st.fixed_dictionaries(_FACTS), st.randoms())
def test_every_situation_can_be_judged_and_order_does_not_matter(values: dict[str, Any], shuffler: random.Random) -> None:
    names = list(values)
    shuffler.shuffle(names)
    rules = list(load_rules())
    matches = matching(rules, Facts(**values))
    assert matching(rules, Facts(**{name: values[name] for name in names})) == matches
    assert [match.rule.id for match in matches] == [rule.id for rule in rules if rule.id in {match.rule.id for match in matches}]
    shuffler.shuffle(rules)
    shuffled = matching(rules, Facts(**values))
    assert scores(shuffled) == scores(matches)
    assert {match.rule.id for match in shuffled} == {match.rule.id for match in matches}


def test_stages_divide_the_rules() -> None:
    facts = some_facts(approach="qlora", rank=32, lora_headroom=-1, priority="accuracy")
    whole = {match.rule.id for match in matching(load_rules(), facts)}
    by_stage = [{match.rule.id for match in matching(load_rules(), facts, stage=stage)} for stage in (0, 1, 2)]
    assert set.union(*by_stage) == whole
    assert sum(map(len, by_stage)) == len(whole)
    assert all(by_stage)


def test_facts_have_types_and_closed_values() -> None:
    types = fact_types()
    assert types["has_gpu"] == ("bool", ())
    assert types["rank"] == types["gpu_memory_gib"] == ("number", ())
    assert types["gpu_name"] == ("text", ())
    assert types["team"] == ("text", ("beginner", "experienced", "unspecified"))
