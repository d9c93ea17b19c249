"""Which plans a rule changes: a fixed set of situations, planned with it and without it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftadvise.advisor.plan_types import APPROACH_LABELS, PlanRequest
from ftadvise.advisor.planner import find
from ftadvise.advisor.rule_schema import Rule
from ftadvise.advisor.rule_set import active_rules
from ftadvise.advisor.search import Prices, SearchResult
from ftadvise.estimator.estimate import estimate
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.model_spec import ModelSpec
from ftadvise.profiles.probe import named_hardware
from ftadvise.profiles.resolve_model import resolve_model
from ftadvise.profiles.yaml_store import load_yaml


@dataclass(frozen=True, slots=True)
class ChangedPlan:
    """One situation and what the rule changes there: the approach or a field of the recipe, without the rule and with it."""

    situation: str
    changes: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Impact:
    """`situations` were planned, in `speaks` of them the plan shows the rule, and `changed` are those whose recipe it changes."""

    situations: int
    speaks: int
    changed: tuple[ChangedPlan, ...]


def rule_impact(rule_id: str, files: Sequence[Path] = ()) -> Impact:
    """What one of the active rules changes in the situations of situations.yaml.

    Only the search is done twice, on recipes that are priced once; a situation in which the rule does not speak is not searched again.

    Args:
        rule_id: the id of a rule in force.

    Raises:
        InputError: a broken rule file.
    """
    rules = active_rules(files)
    rule = next(rule for rule in rules if rule.id == rule_id)
    without = tuple(rule for rule in rules if rule.id != rule_id)
    table = load_yaml(Path(__file__).parent / "situations.yaml")
    speaks, changed = 0, []
    for pair in table["pairs"]:
        model, hardware = resolve_model(pair["model"]), named_hardware(pair["gpu"])
        priced = functools.partial(estimate, model, hardware, detail=False)
        price = Prices(priced, functools.partial(priced, speed=False))
        facts = _searched(model, hardware, {}, price, rules).facts
        for request in table["requests"]:
            if rule.stage == 0 and not rule.speaks(dataclasses.asdict(dataclasses.replace(facts, **request))):
                continue
            result = _searched(model, hardware, request, price, rules)
            if not _spoke(rule_id, result):
                continue
            speaks += 1
            changes = _changes(_searched(model, hardware, request, price, without), result)
            if changes:
                words = ", ".join([pair["model"], pair["gpu"], *(f"--{name} {value}" for name, value in request.items())])
                changed.append(ChangedPlan(words, changes))
    return Impact(len(table["pairs"]) * len(table["requests"]), speaks, tuple(changed))


def _searched(model: ModelSpec, hardware: Hardware, request: dict[str, Any], price: Prices, rules: tuple[Rule, ...]) -> SearchResult:
    """The search that a plan for this request rests on."""
    return find(model, hardware, PlanRequest(**request), price, rules, only_best=True)[0]


def _spoke(rule_id: str, result: SearchResult) -> bool:
    """Whether the plan would show the rule: it matched the situation, or the approach that was chosen."""
    chosen = result.chosen
    return any(match.rule.id == rule_id for match in (*result.matches, *(chosen.settled if chosen else ())))


def _changes(before: SearchResult, after: SearchResult) -> tuple[tuple[str, str, str], ...]:
    """What differs between two recommendations: the approach, and then the fields of the recipe."""
    first, second = before.chosen, after.chosen
    old = first.best.recipe.to_dict() if first and first.best else {}
    new = second.best.recipe.to_dict() if second and second.best else {}
    found = []
    if (first and first.approach) != (second and second.approach):
        names = [APPROACH_LABELS[each.approach] if each else "nothing fits" for each in (first, second)]
        found.append(("approach", names[0], names[1]))
    same = {"method", "quantization", "double_quantization", "adapter_dtype"} if found else set()
    for name in new:
        if name not in same and old.get(name) != new[name]:
            found.append((name, _shown(old.get(name)), _shown(new[name])))
    return tuple(found)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else ",".join(value) if isinstance(value, list) else str(value)
