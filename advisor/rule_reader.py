"""One rule file read and validated: what is wrong is named with file, line, rule, key and the nearest valid name."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, get_args

from ftadvise.advisor.condition import Condition
from ftadvise.advisor.facts import STAGE_NAMES, STAGE_OF_FACT, fact_types
from ftadvise.advisor.plan_types import Approach
from ftadvise.advisor.rule_schema import APPROACHES, DERIVED_SETTINGS, PREFERENCES, SETTINGS, Effect, EffectKind, Rule
from ftadvise.advisor.texts import MESSAGE_PREFIX, Text
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError, did_you_mean

MAX_TEXT = 2000
"""Characters of a sentence, note, comment or source."""
MAX_WEIGHT = 1000
_ID = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")
_REQUIRED = ("id", "when", "effect", "weight", "sentence", "source")
_OPTIONAL = ("premise", "requires", "comment")
_OF_APPROACH = ("method", "quantization", "double_quantization")
"""Fields that make an approach what it is: another approach's value would contradict it."""
Keys = tuple[str | int, ...]


def problem(path: Path, keys: Keys, rule_id: str | None, what: str, *, hint: str | None = None) -> InputError:
    """The error to raise about one place of a rule file. `keys` lead to it from the top; a missing one points to where it belongs."""
    rule = f", rule {rule_id}" if rule_id else ""
    key = next((str(each) for each in reversed(keys) if isinstance(each, str) and each != "rules"), None)
    where = f", key {key!r}" if key else ""
    return InputError(f"{path}, line {_line(path, keys)}{rule}{where}: {what}", hint=hint)


def read_rules(path: Path, content: Any, *, own: bool = False, problems: list[InputError] | None = None) -> Iterator[Rule]:
    """The rules of one file, in its order.

    Args:
        content: the file's YAML, parsed.
        own: the user's file, not one of ftadvise's; there one language is enough.
        problems: collects what is wrong instead of raising it; broken rules are then left out.

    Raises:
        InputError: the first thing that is wrong, if `problems` is None.
    """
    reader = _Reader(path, own)
    try:
        table, entries = reader.top(content)
    except InputError as error:
        if problems is None:
            raise
        problems.append(error)
        return
    for position, entry in enumerate(entries):
        try:
            yield reader.rule(entry, table, position)
        except InputError as error:
            if problems is None:
                raise
            problems.append(error)


class _Reader:
    """Turns the content of one file into rules; knows where it is, for messages."""

    def __init__(self, path: Path, own: bool) -> None:
        self._path = path
        self._own = own
        self._keys: Keys = ()
        """Where the current rule stands."""
        self._id: str | None = None

    def top(self, content: Any) -> tuple[Text, list[Any]]:
        """The table's title and the entries of its rules."""
        values = self._mapping(content, (), "the file", required=("table", "rules"))
        if not isinstance(values["rules"], list):
            self._fail("rules must be a list", "rules")
        return self._text(values["table"], "table"), values["rules"]

    def rule(self, entry: Any, table: Text, position: int) -> Rule:
        """One entry as a rule."""
        self._keys, self._id = ("rules", position), None
        if isinstance(entry, dict) and isinstance(entry.get("id"), str):
            self._id = entry["id"]
        values = self._mapping(entry, (), "a rule", required=_REQUIRED, optional=_OPTIONAL)
        rule_id = values["id"]
        if not isinstance(rule_id, str) or not _ID.fullmatch(rule_id) or rule_id.startswith(MESSAGE_PREFIX):
            self._fail(f"id must be lower-case words joined by dots, such as gpu.mid_low, and not begin with {MESSAGE_PREFIX}", "id")
        weight = values["weight"]
        if type(weight) is not int or not 1 <= weight <= MAX_WEIGHT:
            self._fail(f"weight must be a whole number from 1 to {MAX_WEIGHT}, not {weight!r}", "weight")
        when = self._condition(values["when"], "when")
        premise = self._condition(values["premise"], "premise") if "premise" in values else None
        if premise and premise.stage > when.stage:
            self._fail(f"premise cannot depend on {_late(premise, when.stage)} unless `when` does", "premise")
        if not isinstance(values["effect"], list) or not values["effect"]:
            self._fail("effect must be a list with at least one entry", "effect")
        return Rule(
            id=rule_id,
            when=when,
            premise=premise,
            effects=tuple(self._effect(effect, when, index) for index, effect in enumerate(values["effect"])),
            weight=weight,
            sentence=self._text(values["sentence"], "sentence"),
            source=self._plain(values["source"], "source"),
            comment=self._text(values["comment"], "comment") if "comment" in values else None,
            table=table,
            file=str(self._path) if self._own else self._path.name,
            requires=self._requires(values.get("requires", [])),
            position=position,
            own=self._own,
        )

    def _fail(self, what: str, *keys: str | int, hint: str | None = None) -> NoReturn:
        raise problem(self._path, (*self._keys, *keys), self._id, what, hint=hint)

    def _condition(self, value: Any, key: str) -> Condition:
        if isinstance(value, bool):  # `when: true` is always, `when: false` switches a rule off
            value = str(value)
        if not isinstance(value, str):
            self._fail(f"{key} must be text, not {value!r}", key)
        try:
            return Condition(value, fact_types())
        except InputError as error:
            self._fail(str(error), key, hint=error.hint)

    def _requires(self, value: Any) -> tuple[str, ...]:
        names = value if isinstance(value, list) else [value]
        for name in names:
            if not isinstance(name, str):
                self._fail(f"requires lists ids of rules, not {name!r}", "requires")
        return tuple(names)

    def _effect(self, entry: Any, when: Condition, index: int) -> Effect:
        kinds = get_args(EffectKind)
        keys = [key for key in entry if key != "for"] if isinstance(entry, dict) else []
        if len(keys) != 1:
            self._fail(f"each effect is a mapping with one of {', '.join(kinds)}", "effect", index)
        kind = keys[0]
        at = ("effect", index, kind)
        if kind not in kinds:
            self._fail(f"unknown effect {kind!r}", *at, hint=did_you_mean(kind, kinds) or f"known effects: {', '.join(kinds)}")
        if "for" in entry and kind not in SETTINGS:
            self._fail(f"`for` belongs to {', '.join(SETTINGS)} only", "effect", index, "for")
        value = entry[kind]
        if kind in PREFERENCES:
            if when.stage > 0:
                self._fail(f"{kind} cannot depend on {_late(when, 0)}: it decides between approaches", *at)
            return Effect(kind, approaches=self._approaches(value, at))
        if kind in SETTINGS:
            if when.stage > 2:
                self._fail(f"{kind} cannot depend on {_late(when, 2)}: that is known only when the recipe is complete", *at)
            limited_to = self._approaches(entry["for"], ("effect", index, "for")) if "for" in entry else ()
            settings = self._settings(value, at, when)
            for field, _ in settings:
                if field in _OF_APPROACH and not limited_to and "approach" not in when.names:
                    self._fail(f"{field} belongs to an approach: say to which with `for`, or in `when`", *at, field)
            return Effect(kind, approaches=limited_to, settings=settings)
        return Effect(kind, text=self._text(value, *at))

    def _approaches(self, value: Any, at: Keys) -> tuple[Approach, ...]:
        names = value if isinstance(value, list) else [value]
        for name in names:
            if name not in APPROACHES:
                near = did_you_mean(str(name), APPROACHES)
                self._fail(f"unknown approach {name!r}", *at, hint=near or f"approaches: {', '.join(APPROACHES)}")
        return tuple(names)

    def _settings(self, value: Any, at: Keys, when: Condition) -> tuple[tuple[str, Any], ...]:
        kind = at[-1]
        fields = {field.name: field.default for field in dataclasses.fields(Recipe)}
        known: dict[str, Any] = fields | dict.fromkeys(DERIVED_SETTINGS, 1)
        found = []
        for field, given in self._mapping(value, at, str(kind), optional=tuple(known)).items():
            if when.stage > 1 and field == "rank":
                self._fail("a rule whose condition names rank cannot set it", *at, field)
            setting: Any = tuple(given) if isinstance(given, list) else given
            number = isinstance(setting, (int, float)) and not isinstance(setting, bool) and math.isfinite(setting)
            if (kind != "set" or field not in fields) and not (number and type(known[field]) in (int, float)):
                self._fail(f"{kind} {field} needs a number, not {setting!r}", *at, field)
            if field in DERIVED_SETTINGS and setting <= 0:
                self._fail(f"{kind} {field} needs a number above 0, not {setting!r}", *at, field)
            if field in fields:
                try:
                    Recipe(quantization="nf4").replace(**{field: setting})
                except InputError as error:
                    self._fail(str(error), *at, field, hint=error.hint)
            found.append((field, setting))
        return tuple(found)

    def _mapping(
        self, value: Any, at: Keys, what: str, *, required: tuple[str, ...] = (), optional: tuple[str, ...] = ()
    ) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            self._fail(f"{what} must be a mapping, not {value!r:.60}", *at)
        known = required + optional
        for key in value:
            if key not in known:
                self._fail(f"unknown key {key!r}", *at, key, hint=did_you_mean(key, known) or f"known keys: {', '.join(known)}")
        missing = [key for key in required if key not in value]
        if missing:
            self._fail(f"{what} lacks {', '.join(missing)}", *at)
        return value

    def _text(self, value: Any, *at: str | int) -> Text:
        if self._own and isinstance(value, str):
            return Text(*[self._plain(value, *at)] * 2)
        values = self._mapping(value, at, str(at[-1]), required=("en", "zh"))
        return Text(*(self._plain(values[language], *at, language) for language in ("en", "zh")))

    def _plain(self, value: Any, *at: str | int) -> str:
        name = ".".join(str(key) for key in at if isinstance(key, str) and key != "effect")
        if not isinstance(value, str) or not value.strip():
            self._fail(f"{name} must be text", *at)
        if len(value) > MAX_TEXT:
            self._fail(f"{name} has at most {MAX_TEXT} characters", *at)
        plain = value.replace("\n", "").replace("\t", "")
        if not plain.isprintable():  # an escape sequence could rewrite what the terminal shows
            hidden = next(character for character in plain if not character.isprintable())
            self._fail(f"{name} contains the control character {hidden!r}", *at)
        return value


def _late(condition: Condition, stage: int) -> str:
    """The condition's facts that are known only after `stage`, in words."""
    names = sorted(name for name in condition.names if STAGE_OF_FACT.get(name, 0) > stage)
    return f"{' or '.join(names)} (known with the {STAGE_NAMES[condition.stage]})"


def _line(path: Path, keys: Keys) -> int:
    """The line (from 1) of the place that the keys lead to, or of the last one on the way that is there."""
    import yaml

    try:
        node: Any = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return 1
    line = 1
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            entry = next(((name, value) for name, value in node.value if getattr(name, "value", None) == key), None)
            if entry is None:
                break
            line, node = entry[0].start_mark.line + 1, entry[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
        else:
            break
    return line
