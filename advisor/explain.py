"""Looking rules up: what `ftadvise explain ID` and `ftadvise rules` show."""

from __future__ import annotations

from dataclasses import dataclass

from ftadvise.advisor.rule_schema import Rule, load_rules
from ftadvise.advisor.texts import Text, message_templates
from ftadvise.profiles.errors import InputError, did_you_mean


@dataclass(frozen=True, slots=True)
class Explanation:
    """One rule, or one of the planner's own findings (`planner.*`, which have no condition, weight or source), ready to be shown.

    `notes` are what the rule tells the user to do or to watch; `file` is where it stands.
    """

    id: str
    table: Text
    sentence: Text
    when: str | None
    premise: str | None
    effect: str | None
    weight: int | None
    source: str | None
    comment: Text | None
    notes: tuple[Text, ...]
    file: str


def explain_rule(rule_id: str) -> Explanation:
    """Everything about one rule.

    Raises:
        InputError: no such rule; the hint names the nearest ones.
    """
    folded = rule_id.strip().casefold()
    for rule in load_rules():
        if rule.id == folded:
            return _explanation(rule)
    template = message_templates().get(folded)
    if template:
        about = Text(template["about"], template["about"])
        sentence = Text(template["en"], template["zh"])
        return Explanation(folded, Text("The planner", "规划器"), sentence, None, None, None, None, None, about, (), "messages.yaml")
    known = [rule.id for rule in load_rules()]
    raise InputError(f"unknown rule {rule_id!r}", hint=did_you_mean(rule_id, known) or "`ftadvise rules` lists all rules")


def list_rules() -> tuple[Explanation, ...]:
    """All rules, table by table."""
    return tuple(_explanation(rule) for rule in load_rules())


def _explanation(rule: Rule) -> Explanation:
    notes = tuple(effect.text for effect in rule.effects if effect.text)
    premise = rule.premise.text if rule.premise else None
    return Explanation(
        rule.id,
        rule.table,
        rule.sentence,
        rule.when.text,
        premise,
        rule.effect_words,
        rule.weight,
        rule.source,
        rule.comment,
        notes,
        rule.file,
    )
