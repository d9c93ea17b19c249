"""The rules of a plan: those that come with ftadvise, those in the user's folder over them, those of `--rules` on top.

A later layer adds rules, and takes over those whose id it uses. Within a layer an id is there once.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import ftadvise.rules
from ftadvise.advisor.condition import Condition
from ftadvise.advisor.facts import STAGE_NAMES
from ftadvise.advisor.rule_reader import problem, read_rules
from ftadvise.advisor.rule_schema import PREFERENCES, SETTINGS, Rule
from ftadvise.profiles.errors import InputError, did_you_mean
from ftadvise.profiles.yaml_store import load_yaml, load_yaml_folder

MAX_RULE_FILE_BYTES = 1 << 20
CONFIG_FOLDER = "FTADVISE_CONFIG_DIR"
"""Environment variable that names the configuration folder instead of the user's."""


@lru_cache(maxsize=4)
def load_rules(folder: Path | None = None) -> tuple[Rule, ...]:
    """All rules of a folder (default: those that come with ftadvise), in file name order, then as they stand in the file.

    Raises:
        InputError: a broken rule; names file, line, rule and key, and the nearest valid name.
    """
    folder = folder or _packaged_folder()
    rules: list[Rule] = []
    for name, content in load_yaml_folder(folder).items():
        rules += read_rules(folder / name, content)
    return _resolved(_unique(rules, {name: folder / name for name in {rule.file for rule in rules}}))


def active_rules(files: Sequence[Path] = ()) -> tuple[Rule, ...]:
    """The rules that a plan is made with: ftadvise's, the user's folder's, then those of `files`.

    A rule that takes another's id stands in its place and says so (`Rule.replaces`); others follow at the end.

    Raises:
        InputError: a file that is missing, no regular file, too large or broken, an id that is there twice in one layer, a rule that
            requires one that does not exist, or itself in a circle.
    """
    folder = user_rules_folder()
    in_folder = sorted(folder.glob("*.yaml")) if folder.is_dir() else []
    if not in_folder and not files:
        return load_rules()
    rules = list(load_rules())
    for layer in (in_folder, files):
        rules = _over(rules, _unique([rule for path in layer for rule in _read_own(path)]))
    return _resolved(rules)


def check_rules(files: Sequence[Path]) -> tuple[tuple[Rule, ...], tuple[InputError, ...]]:
    """The rules of the user's files that are in order, over ftadvise's, and everything that is wrong with them.

    The user's folder is left out, so that the outcome depends on the files alone.
    """
    problems: list[InputError] = []
    found: list[Rule] = []
    for path in files:
        try:
            found += _read_own(path, problems)
        except InputError as error:
            problems.append(error)
    layer: list[Rule] = _unique(found, problems=problems)
    rules = _over(list(load_rules()), layer)
    resolved = _resolved(rules, problems)
    return tuple(rule for rule in resolved if rule.own), tuple(problems)


def user_rules_folder() -> Path:
    """The folder of the user's own rules; it may not exist."""
    configured = os.environ.get(CONFIG_FOLDER)
    if configured:
        return Path(configured) / "rules"
    from platformdirs import user_config_path

    return user_config_path("ftadvise", appauthor=False) / "rules"


def _packaged_folder() -> Path:
    return Path(next(iter(ftadvise.rules.__path__)))


def _read_own(path: Path, problems: list[InputError] | None = None) -> list[Rule]:
    """The rules of one file of the user's."""
    if not path.is_file():  # a pipe or a device would never end
        raise InputError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
    if path.stat().st_size > MAX_RULE_FILE_BYTES:
        raise InputError(f"{path}: larger than {MAX_RULE_FILE_BYTES >> 20} MiB, which no rule file is")
    return list(read_rules(path, load_yaml(path, cache=False), own=True, problems=problems))


def _unique(rules: list[Rule], paths: dict[str, Path] | None = None, *, problems: list[InputError] | None = None) -> list[Rule]:
    """The same rules, if no id is there twice."""
    first: dict[str, Rule] = {}
    for rule in rules:
        if rule.id in first:
            path = (paths or {}).get(rule.file, Path(rule.file))
            error = problem(path, ("rules", rule.position, "id"), rule.id, f"the id {rule.id!r} is already used in {first[rule.id].file}")
            if problems is None:
                raise error
            problems.append(error)
        first.setdefault(rule.id, rule)
    return list(first.values())


def _over(rules: list[Rule], layer: list[Rule]) -> list[Rule]:
    """`rules` with those of a later layer: in place of the same id, or at the end."""
    by_id = {rule.id: rule for rule in layer}
    below = {rule.id: rule for rule in rules}
    replaced = [dataclasses.replace(by_id[rule.id], replaces=rule.replaces or rule.file) if rule.id in by_id else rule for rule in rules]
    return replaced + [rule for rule in layer if rule.id not in below]


def _resolved(rules: Iterable[Rule], problems: list[InputError] | None = None) -> tuple[Rule, ...]:
    """The rules with the conditions of those that they require.

    Raises:
        InputError: a required rule does not exist, depends on facts that are known too late, or requires this one in turn.
    """
    by_id = {rule.id: rule for rule in rules}
    found = []
    for rule in by_id.values():
        try:
            found.append(dataclasses.replace(rule, needed=_needed(rule, by_id)) if rule.requires else rule)
        except InputError as error:
            if problems is None:
                raise
            problems.append(error)
    return tuple(found)


def _needed(rule: Rule, by_id: dict[str, Rule]) -> tuple[Condition, ...]:
    """Conditions and premises of everything that a rule requires."""
    conditions: dict[Condition, None] = {}
    _walk(rule, by_id, (rule.id,), conditions, set())
    stage = max((condition.stage for condition in conditions), default=0)
    allowed = 0 if any(e.kind in PREFERENCES for e in rule.effects) else 2 if any(e.kind in SETTINGS for e in rule.effects) else 3
    sets_rank = any(name == "rank" for effect in rule.effects for name, _ in effect.settings)
    if stage > (min(allowed, 1) if sets_rank else allowed):
        what = f"what it requires is known only with the {STAGE_NAMES[stage]}, too late for its effect"
        raise problem(_path(rule), ("rules", rule.position, "requires"), rule.id, what)
    return tuple(conditions)


def _walk(rule: Rule, by_id: dict[str, Rule], way: tuple[str, ...], conditions: dict[Condition, None], seen: set[str]) -> None:
    for name in rule.requires:
        if name in way:
            circle = " -> ".join((*way[way.index(name) :], name))
            raise problem(_path(rule), ("rules", rule.position, "requires"), rule.id, f"these rules require each other: {circle}")
        if name not in by_id:
            hint = did_you_mean(name, by_id) or "`ftadvise rules` lists all rules"
            raise problem(_path(rule), ("rules", rule.position, "requires"), rule.id, f"requires the unknown rule {name!r}", hint=hint)
        if name not in seen:
            seen.add(name)
            other = by_id[name]
            conditions.update(dict.fromkeys((other.when, *filter(None, [other.premise]))))
            _walk(other, by_id, (*way, name), conditions, seen)


def _path(rule: Rule) -> Path:
    return Path(rule.file) if rule.own else _packaged_folder() / rule.file
