"""Rules as read from `rules/*.yaml`: the schema, and its validation with file, line and the nearest valid name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import ftadvise.rules
from ftadvise.advisor.condition import Condition
from ftadvise.advisor.facts import fact_types
from ftadvise.advisor.plan_types import Approach
from ftadvise.advisor.texts import MESSAGE_PREFIX, Text
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError, did_you_mean
from ftadvise.profiles.yaml_store import load_yaml_folder

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
        values = ", ".join(f"{field} = {value:g}" if isinstance(value, float) else f"{field} = {value}" for field, value in self.settings)
        return self.kind.replace("_", " ") + (f" {values}" if values else "") + (f" ({names})" if names else "")


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of a selection table. `table` is the title of its table, `file` the YAML file it stands in."""

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

    @property
    def effect_words(self) -> str:
        """All effects in a few words."""
        return "; ".join(effect.words for effect in self.effects)


@lru_cache(maxsize=4)
def load_rules(folder: Path | None = None) -> tuple[Rule, ...]:
    """All rules of a folder (default: those that come with ftadvise), in file name order, then as they stand in the file.

    Raises:
        InputError: a broken rule; names file, line, rule and key, and the nearest valid name.
    """
    folder = folder or Path(next(iter(ftadvise.rules.__path__)))
    rules: dict[str, Rule] = {}
    for name, content in load_yaml_folder(folder).items():
        reader = _Reader(folder / name)
        for rule in reader.read(content):
            if rule.id in rules:
                reader.fail(f"the id {rule.id!r} is already used in {rules[rule.id].file}", rule.id)
            rules[rule.id] = rule
    return tuple(rules.values())


class _Reader:
    """Turns the content of one file into rules; knows where it is, for messages."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ids: list[str] = []
        """The ids of the rules read so far; the last one is the current rule's."""

    def read(self, content: Any) -> Iterator[Rule]:
        top = self._mapping(content, "the file", required=("table", "rules"))
        table = self._text(top["table"], "table")
        if not isinstance(top["rules"], list):
            self.fail("rules must be a list", "rules")
        for entry in top["rules"]:
            yield self._rule(entry, table)

    def fail(self, problem: str, near: str, *, hint: str | None = None) -> NoReturn:
        """Raise InputError for this file; the line is the first one at or after the current rule's id that contains `near`."""
        lines = self._path.read_text(encoding="utf-8").splitlines()
        start = 0
        for rule_id in self._ids:
            start = next((n for n in range(start + 1, len(lines)) if lines[n].strip("- ").split()[:2] == ["id:", rule_id]), start)
        line = next((n for n in range(start, len(lines)) if near in lines[n]), start) + 1
        rule = f", rule {self._ids[-1]}" if self._ids else ""
        raise InputError(f"{self._path}, line {line}{rule}: {problem}", hint=hint)

    def _rule(self, entry: Any, table: Text) -> Rule:
        if isinstance(entry, dict) and "id" in entry:
            self._ids.append(str(entry["id"]))
        required = ("id", "when", "effect", "weight", "sentence", "source")
        values = self._mapping(entry, "a rule", required=required, optional=("premise", "comment"))
        if not isinstance(values["id"], str) or not values["id"] or values["id"].startswith(MESSAGE_PREFIX):
            self.fail(f"id must be text that does not begin with {MESSAGE_PREFIX}", "id:")
        if type(values["weight"]) is not int or values["weight"] < 1:
            self.fail(f"weight must be a whole number of at least 1, not {values['weight']!r}", "weight")
        if not isinstance(values["source"], str):
            self.fail("source must be text", "source")
        when = self._condition(values["when"], "when")
        premise = self._condition(values["premise"], "premise") if "premise" in values else None
        if premise and premise.stage > when.stage:
            self.fail("premise cannot depend on approach or rank unless `when` does", "premise")
        if not isinstance(values["effect"], list) or not values["effect"]:
            self.fail("effect must be a list with at least one entry", "effect")
        effects = tuple(self._effect(effect, when) for effect in values["effect"])
        sentence = self._text(values["sentence"], "sentence")
        comment = self._text(values["comment"], "comment") if "comment" in values else None
        self_id, weight, source = values["id"], values["weight"], values["source"]
        return Rule(self_id, when, premise, effects, weight, sentence, source, comment, table, self._path.name)

    def _condition(self, value: Any, key: str) -> Condition:
        if not isinstance(value, str):
            self.fail(f"{key} must be text, not {value!r}", key)
        try:
            return Condition(value, fact_types())
        except InputError as error:
            self.fail(f"{key}: {error}", key, hint=error.hint)

    def _effect(self, entry: Any, when: Condition) -> Effect:
        kinds = get_args(EffectKind)
        keys = [key for key in entry if key != "for"] if isinstance(entry, dict) else []
        if len(keys) != 1:
            self.fail(f"each effect is a mapping with one of {', '.join(kinds)}", "effect")
        kind = keys[0]
        if kind not in kinds:
            self.fail(f"unknown effect {kind!r}", kind, hint=did_you_mean(kind, kinds) or f"known effects: {', '.join(kinds)}")
        if "for" in entry and kind not in SETTINGS:
            self.fail(f"`for` belongs to {', '.join(SETTINGS)} only", "for:")
        value = entry[kind]
        if kind in PREFERENCES:
            if when.stage > 0:
                self.fail(
                    f"{kind} cannot depend on {' or '.join(sorted(when.names & {'approach', 'rank'}))}: it decides between approaches", kind
                )
            return Effect(kind, approaches=self._approaches(value, kind))
        if kind in SETTINGS:
            limited_to = self._approaches(entry["for"], "for:") if "for" in entry else ()
            return Effect(kind, approaches=limited_to, settings=self._settings(value, kind, when))
        return Effect(kind, text=self._text(value, kind))

    def _approaches(self, value: Any, key: str) -> tuple[Approach, ...]:
        names = value if isinstance(value, list) else [value]
        for name in names:
            if name not in APPROACHES:
                self.fail(
                    f"unknown approach {name!r}", key, hint=did_you_mean(str(name), APPROACHES) or f"approaches: {', '.join(APPROACHES)}"
                )
        return tuple(names)

    def _settings(self, value: Any, kind: str, when: Condition) -> tuple[tuple[str, Any], ...]:
        fields = {field.name: field.default for field in dataclasses.fields(Recipe)}
        known: dict[str, Any] = fields | dict.fromkeys(DERIVED_SETTINGS, 1)
        for field, setting in self._mapping(value, kind, optional=tuple(known)).items():
            if when.stage > 1 and field == "rank":
                self.fail("a rule whose condition names rank cannot set it", kind)
            if kind == "set" and field in fields:
                try:
                    Recipe(quantization="nf4").replace(**{field: setting})
                except InputError as error:
                    self.fail(str(error), field, hint=error.hint)
            elif not isinstance(setting, (int, float)) or isinstance(setting, bool) or type(known[field]) not in (int, float):
                self.fail(f"{kind} {field} needs a number, not {setting!r}", field)
        return tuple(value.items())

    def _mapping(self, value: Any, what: str, *, required: tuple[str, ...] = (), optional: tuple[str, ...] = ()) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            self.fail(f"{what} must be a mapping, not {value!r}", what)
        known = required + optional
        for key in value:
            if key not in known:
                self.fail(f"unknown key {key!r}", key, hint=did_you_mean(key, known) or f"known keys: {', '.join(known)}")
        missing = [key for key in required if key not in value]
        if missing:
            self.fail(f"{what} lacks {', '.join(missing)}", what)
        return value

    def _text(self, value: Any, key: str) -> Text:
        values = self._mapping(value, key, required=("en", "zh"))
        for language, sentence in values.items():
            if not isinstance(sentence, str) or not sentence.strip():
                self.fail(f"{key}.{language} must be text", language + ":")
        return Text(values["en"], values["zh"])
