"""What a rule is. `rule_reader` reads it from YAML, `rule_set` puts files together, `rule_engine` applies it. The form: docs/rules.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ftadvise.advisor.condition import Condition
from ftadvise.advisor.plan_types import Approach
from ftadvise.advisor.texts import Text

EffectKind = Literal["prefer", "discourage", "require", "forbid", "set", "at_least", "at_most", "warn", "note"]
PREFERENCES = ("prefer", "discourage", "require", "forbid")
SETTINGS = ("set", "at_least", "at_most")
APPROACHES: tuple[Approach, ...] = get_args(Approach)
DERIVED_SETTINGS = ("alpha_per_rank", "sequences_per_step")
"""Settings that are not recipe fields: alpha = alpha_per_rank * rank; gradient_accumulation = sequences_per_step / micro_batch."""


@dataclass(frozen=True, slots=True)
class Effect:
    """One thing a rule does.

    `approaches`: what a preference is about, or what settings are limited to (empty: all). `settings`: recipe field and value.
    """

    kind: EffectKind
    approaches: tuple[Approach, ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()
    text: Text | None = None

    @property
    def words(self) -> str:
        """The effect in a few words: "prefer lora, qlora", "set rank = 32 (qlora)", "note"."""
        names = ", ".join(self.approaches)
        if self.kind in PREFERENCES:
            return f"{self.kind} {names}"
        values = ", ".join(f"{field} = {_value(value)}" for field, value in self.settings)
        return self.kind.replace("_", " ") + (f" {values}" if values else "") + (f" ({names})" if names else "")


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of a selection table. `table` is the title of its table, `file` the YAML file it stands in.

    `requires`: ids of rules without which it does not speak; `needed`: their conditions and premises, and those of the rules that they
    require in turn. `position`: which rule of its file it is, from 0. `own`: the user's, not one that comes with ftadvise; `replaces`: then
    the file of the rule whose id it takes over.
    """

    id: str
    when: Condition
    premise: Condition | None
    effects: tuple[Effect, ...]
    weight: int
    sentence: Text
    source: str
    comment: Text | None
    table: Text
    file: str
    requires: tuple[str, ...] = ()
    needed: tuple[Condition, ...] = ()
    position: int = 0
    own: bool = False
    replaces: str | None = None

    @property
    def stage(self) -> int:
        """The stage at which all the facts that it depends on are known (see `facts.STAGE_NAMES`)."""
        return max([self.when.stage, *(condition.stage for condition in self.needed)]) if self.needed else self.when.stage

    @property
    def effect_words(self) -> str:
        """All effects in a few words."""
        return "; ".join(effect.words for effect in self.effects)

    def speaks(self, values: Mapping[str, Any]) -> bool:
        """Whether its situation, and that of every rule it requires, is given; `values` are facts by name."""
        return self.when.matches(values) and all(condition.matches(values) for condition in self.needed)


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else ",".join(value) if isinstance(value, tuple) else str(value)
