"""Looking rules up, and the package's public names."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ftadvise.advisor
from ftadvise.advisor.explain import explain_rule, list_rules
from ftadvise.advisor.rule_set import load_rules
from ftadvise.profiles.errors import InputError


def test_a_rule_is_explained_with_its_condition_and_source() -> None:
    told = explain_rule("GPU.mid_low ")
    assert (told.id, told.when, told.source, told.weight) == ("gpu.mid_low", 'gpu_tier == "mid_low"', "D0 §3.2", 3)
    assert told.effect == "prefer qlora"
    assert told.premise == "lora_headroom < 0.1"
    assert "strongly recommended" in told.sentence.in_language("en")
    assert "强烈推荐" in told.sentence.in_language("zh_CN")


def test_the_planners_findings_are_explained_too() -> None:
    told = explain_rule("planner.size_silent")
    assert told.when is None
    assert "silent" in told.sentence.en
    assert "D0 §3.4" in str(told.comment and told.comment.en)


def test_an_unknown_rule_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown rule 'gpu\.midlow'") as raised:
        explain_rule("gpu.midlow")
    assert "gpu.mid_low" in str(raised.value.hint)


def test_rules_are_listed_table_by_table() -> None:
    listed = list_rules()
    tables = [each.table.en for each in listed]
    assert [each.id for each in listed] == [rule.id for rule in load_rules()]
    assert sorted(set(tables), key=tables.index) == [table for n, table in enumerate(tables) if n == 0 or tables[n - 1] != table]
    assert all(explain_rule(each.id) == each for each in listed)


def test_public_names_exist_and_nothing_heavy_is_imported() -> None:
    assert all(hasattr(ftadvise.advisor, name) for name in ftadvise.advisor.__all__)
    with pytest.raises(AttributeError):
        ftadvise.advisor.no_such_name  # noqa: B018
    code = (
        "import sys, ftadvise.advisor as a; a.make_plan; a.list_rules();"
        "print([m for m in ('torch', 'transformers', 'peft', 'pydantic', 'numpy') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
