"""Plans of other versions: what an older one could not know takes its default, what a newer one says is refused by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from ftadvise.estimator.data_settings import DataSettings
from ftadvise.estimator.plan_file import MadeFor, PlanFile, read_plan_file, write_plan_file
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.hardware import Cpu, Hardware

PLAN = PlanFile(
    model_id="org/model",
    parameters=123,
    local_path=None,
    made_for=MadeFor.of(Hardware((), Cpu("some cpu", 2, 2, supports_bf16=False, supports_amx=False), 16 << 30, 12 << 30, "probed")),
    stack={"name": "trl", "versions": {}},
    recipe=Recipe(rank=24, alpha=48),
    data=DataSettings("rows.jsonl"),
    predicted={"memory": {}, "throughput": None},
    ftadvise_version="0.1.0",
)
ADDED_LATER = ("rslora",)
"""Fields of the recipe that plans of ftadvise 0.1.0 lack."""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    write_plan_file(tmp_path / "plan.yaml", PLAN)
    return tmp_path / "plan.yaml"


def test_a_plan_from_before_a_field_existed_has_its_default(plan: Path) -> None:
    document = yaml.safe_load(plan.read_text(encoding="utf-8"))
    for name in ADDED_LATER:
        del document["recipe"][name]
    document["data"] = {"path": "rows.jsonl"}
    plan.write_text(yaml.safe_dump(document), encoding="utf-8")
    read = read_plan_file(plan)
    assert dataclasses.replace(read, created=PLAN.created) == PLAN


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"schema": "ftadvise.plan-file/2"}, "this version of ftadvise reads 'ftadvise.plan-file/1'"),
        ({"recipe": {"a_field_of_tomorrow": 1}}, "unknown key 'recipe.a_field_of_tomorrow'"),
        ({"recipe": {"method": "a method of tomorrow"}}, "method must be one of"),
    ],
)
def test_what_only_a_newer_version_knows_is_refused_by_name(plan: Path, change: dict[str, object], wanted: str) -> None:
    document = yaml.safe_load(plan.read_text(encoding="utf-8"))
    for key, value in change.items():
        document[key] = {**document[key], **value} if isinstance(value, dict) else value
    plan.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(InputError, match=wanted) as caught:
        read_plan_file(plan)
    assert "\n" not in str(caught.value)
