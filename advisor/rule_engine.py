"""The rule engine: which rules match a situation, and what they say about approaches and settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ftadvise.advisor.facts import Facts
from ftadvise.advisor.plan_types import Approach
from ftadvise.advisor.rule_schema import APPROACHES, Effect, Rule


@dataclass(frozen=True, slots=True)
class Match:
    """A rule whose situation is given. `premise_holds` is False when the reason that the row gives is not true here."""

    rule: Rule
    premise_holds: bool

    def effects(self, *kinds: str) -> tuple[Effect, ...]:
        """The rule's effects of these kinds."""
        return tuple(effect for effect in self.rule.effects if effect.kind in kinds)


def matching(rules: Iterable[Rule], facts: Facts, *, stage: int | None = None) -> tuple[Match, ...]:
    """The rules whose condition holds, in the order given; with `stage`, only those whose facts are all known then and not before."""
    values = {fact.name: getattr(facts, fact.name) for fact in dataclasses.fields(facts)}
    return tuple(
        Match(rule, rule.premise is None or rule.premise.matches(values))
        for rule in rules
        if (stage is None or rule.stage == stage) and rule.speaks(values)
    )


def scores(matches: Iterable[Match]) -> dict[Approach, int]:
    """The sum of weights for each approach: + when preferred or required, - when discouraged or forbidden."""
    total = dict.fromkeys(APPROACHES, 0)
    for match in matches:
        if match.premise_holds:
            for effect in match.effects("prefer", "require", "discourage", "forbid"):
                sign = 1 if effect.kind in ("prefer", "require") else -1
                for approach in effect.approaches:
                    total[approach] += sign * match.rule.weight
    return total


def allowed(matches: Iterable[Match]) -> tuple[Approach, ...]:
    """The approaches that no `require` or `forbid` rules out."""
    left = list(APPROACHES)
    for match in matches:
        if match.premise_holds:
            for effect in match.effects("require", "forbid"):
                left = [approach for approach in left if (approach in effect.approaches) == (effect.kind == "require")]
    return tuple(left)


@dataclass(slots=True)
class Settings:
    """Recipe fields and derived settings while they are being decided, and the ranges that rules keep them in.

    `locked` names the fields that the user fixed: rules do not change them. `claims` holds weight and id of the rule that set a field: the
    heavier rule wins, and of equal ones the later in the alphabet, so that the order of rules decides nothing.
    """

    values: dict[str, Any]
    locked: frozenset[str] = frozenset()
    at_least: dict[str, float] = field(default_factory=dict)
    at_most: dict[str, float] = field(default_factory=dict)
    claims: dict[str, tuple[int, str]] = field(default_factory=dict)

    def apply(self, matches: Iterable[Match], approach: Approach) -> None:
        """What the rules say for this approach: `set` replaces a value, a range moves it inside."""
        for match in matches:
            claim = (match.rule.weight, match.rule.id)
            for effect in match.effects("set", "at_least", "at_most"):
                if not match.premise_holds or (effect.approaches and approach not in effect.approaches):
                    continue
                for name, value in effect.settings:
                    if effect.kind == "set":
                        if name not in self.locked and claim >= self.claims.get(name, claim):
                            self.values[name], self.claims[name] = value, claim
                    elif effect.kind == "at_least":
                        self.at_least[name] = max(value, self.at_least.get(name, value))
                    elif effect.kind == "at_most":
                        self.at_most[name] = min(value, self.at_most.get(name, value))
        for name in self.values:
            self.values[name] = self.inside(name, self.values[name])

    def inside(self, name: str, value: Any) -> Any:
        """`value`, moved into the range of the field; unchanged when no rule limits it, or the user fixed it."""
        if name in self.locked:
            return value
        if name in self.at_least:
            value = max(value, self.at_least[name])
        return min(value, self.at_most[name]) if name in self.at_most else value
