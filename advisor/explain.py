"""Looking rules up: what `ftadvise explain ID` and `ftadvise rules` show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftadvise.advisor.reasons import rule_origin
from ftadvise.advisor.rule_schema import Rule
from ftadvise.advisor.rule_set import active_rules, load_rules
from ftadvise.advisor.texts import Text, message_templates
from ftadvise.profiles.errors import InputError, did_you_mean


@dataclass(frozen=True, slots=True)
class Explanation:
    """One rule, or one of the planner's own findings (`planner.*`, which have no condition, weight or source), ready to be shown.

    `notes` are what the rule tells the user to do or to watch; `file` is where it stands. `origin` is there for a rule of the user's own,
    `replaced` is the sentence of the rule that it stands in for.
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
    requires: tuple[str, ...] = ()
    origin: Text | None = None
    replaced: Text | None = None


def explain_rule(rule_id: str, files: Sequence[Path] = ()) -> Explanation:
    """Everything about one rule, as it is in force with the user's folder and `files`.

    Raises:
        InputError: no such rule; the hint names the nearest ones. Or a broken rule file.
    """
    folded = rule_id.strip().casefold()
    rules = active_rules(files)
    for rule in rules:
        if rule.id == folded:
            return _explanation(rule)
    template = message_templates().get(folded)
    if template:
        about = Text(template["about"], template["about"])
        sentence = Text(template["en"], template["zh"])
        return Explanation(folded, Text("The planner", "规划器"), sentence, None, None, None, None, None, about, (), "messages.yaml")
    known = [rule.id for rule in rules]
    raise InputError(f"unknown rule {rule_id!r}", hint=did_you_mean(rule_id, known) or "`ftadvise rules` lists all rules")


def list_rules(files: Sequence[Path] = ()) -> tuple[Explanation, ...]:
    """All rules in force, table by table.

    Raises:
        InputError: a broken rule file.
    """
    return tuple(_explanation(rule) for rule in active_rules(files))


def _explanation(rule: Rule) -> Explanation:
    replaced = next((each.sentence for each in load_rules() if each.id == rule.id), None) if rule.replaces else None
    return Explanation(
        id=rule.id,
        table=rule.table,
        sentence=rule.sentence,
        when=rule.when.text,
        premise=rule.premise.text if rule.premise else None,
        effect=rule.effect_words,
        weight=rule.weight,
        source=rule.source,
        comment=rule.comment,
        notes=tuple(effect.text for effect in rule.effects if effect.text),
        file=rule.file,
        requires=rule.requires,
        origin=rule_origin(rule),
        replaced=replaced,
    )
