"""Every row of the selection tables, and every rule beyond them: its situation goes in, its answer comes out, in both languages.

rows.yaml holds situations and answers. Where it names a model and a GPU they go through the public planner with the real estimator.
"""

from __future__ import annotations

import functools
import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from advisor_stand_ins import some_facts
from rich.console import Console

import ftadvise
from ftadvise.advisor.explain import explain_rule
from ftadvise.advisor.plan_types import Plan, PlanRequest, Reason
from ftadvise.advisor.rule_engine import Settings, matching, scores
from ftadvise.advisor.rule_schema import Rule
from ftadvise.advisor.rule_set import load_rules
from ftadvise.rendering.plan_view import plan_view
from ftadvise.rendering.rule_view import explanation_view

TABLE: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "rows.yaml").read_text(encoding="utf-8"))
CONTRACT: list[str] = [row for rows in TABLE["contract"].values() for row in rows]
ROWS: dict[str, dict[str, Any]] = TABLE["rows"]
RULES = {rule.id: rule for rule in load_rules()}
PLANNED = [row for row in ROWS if "plan" in ROWS[row]]
JUDGED = [row for row in ROWS if "facts" in ROWS[row]]
CHINESE = re.compile("[一-鿿]")


def planned(situation: dict[str, Any]) -> Plan:
    """The plan for a situation of rows.yaml; rows share situations."""
    return _planned(json.dumps(situation, sort_keys=True))


@functools.cache
def _planned(situation: str) -> Plan:
    asked = json.loads(situation)
    model, gpu = asked.pop("model"), asked.pop("gpu")
    return ftadvise.plan(model, gpu=gpu, request=PlanRequest(**asked))


def reason(plan: Plan, rule: str) -> Reason:
    return next(each for each in plan.reasons if each.rule == rule)


def shown(view: Any) -> str:
    console = Console(file=StringIO(), width=5000, no_color=True, highlight=False)
    console.print(view)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_every_row_of_the_documents_is_a_rule() -> None:
    assert len(CONTRACT) == len(set(CONTRACT)) == 50
    assert set(CONTRACT) <= RULES.keys()


def test_every_rule_has_a_row_here() -> None:
    assert ROWS.keys() == RULES.keys()
    assert sorted(PLANNED + JUDGED) == sorted(ROWS)
    assert set(CONTRACT) <= set(PLANNED)


@pytest.mark.parametrize("row", PLANNED)
def test_the_situation_goes_in_and_the_answer_comes_out(row: str) -> None:
    wanted = ROWS[row]
    plan = planned(wanted["plan"])
    told = reason(plan, row)
    assert (told.effect, told.outcome) == (wanted["effect"], wanted.get("outcome", "applied"))
    assert wanted["en"] in told.sentence.en
    assert wanted["zh"] in told.sentence.zh
    if "note" in wanted:
        assert told.note is not None
        assert wanted["note"] in told.note.en
        assert wanted["note_zh"] in told.note.zh
    assert told.source == RULES[row].source
    if "label" in wanted:
        assert plan.recipe.label == wanted["label"]
    recipe = plan.recipe.to_dict()
    assert {field: recipe[field] for field in wanted.get("recipe", {})} == wanted.get("recipe", {})


@pytest.mark.parametrize("row", PLANNED)
def test_it_is_silent_elsewhere(row: str) -> None:
    assert row not in [each.rule for each in planned(ROWS[row]["silent"]).reasons]


@pytest.mark.parametrize("row", JUDGED)
def test_a_situation_given_by_facts(row: str) -> None:
    wanted, rule = ROWS[row], RULES[row]
    (match,) = matching([rule], some_facts(**wanted["facts"]))
    (effect,) = match.effects("note", "warn")
    assert rule.effect_words == wanted["effect"]
    assert effect.text is not None
    assert wanted["note"] in effect.text.en
    assert wanted["note_zh"] in effect.text.zh
    assert wanted["en"] in rule.sentence.en
    assert wanted["zh"] in rule.sentence.zh
    assert not matching([rule], some_facts(**wanted["silent"]))


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("row", PLANNED)
def test_a_plan_shows_the_row_in_its_language(row: str, lang: str) -> None:
    page = shown(plan_view(planned(ROWS[row]["plan"]), lang, every_rule=True))
    assert ROWS[row][lang] in page
    assert ROWS[row].get("note" if lang == "en" else "note_zh", "") in page


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("row", ROWS)
def test_explain_shows_the_row_in_its_language(row: str, lang: str) -> None:
    page = shown(explanation_view(explain_rule(row), lang))
    rule = RULES[row]
    assert all(words in page for words in (row, ROWS[row][lang], rule.when.text, rule.effect_words, rule.source, rule.file))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_row_speaks_both_languages_and_names_its_source(rule: Rule) -> None:
    texts = [rule.sentence, rule.comment, *(effect.text for effect in rule.effects)]
    for text in filter(None, texts):
        assert CHINESE.search(text.zh)
        assert not CHINESE.search(text.en)
    document = r"D[0-3] (§[\d.]+|parts? [\d, and]+)(, D[0-3] (§[\d.]+|part \d))*"
    if rule.id in CONTRACT:
        assert re.match(document, rule.source)
    else:
        assert re.search(r"https://\S+\.\S+|arXiv \d{4}\.\d{5}", rule.source)


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
