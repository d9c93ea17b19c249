"""What an exporter is: a plan in, files for another trainer out, and an account of every field of the recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ftadvise.advisor.texts import Text
from ftadvise.estimator.plan_file import PlanFile
from ftadvise.estimator.recipe import Recipe

RECIPE_FIELDS = frozenset(each.name for each in dataclasses.fields(Recipe))


@dataclass(frozen=True, slots=True)
class Exported:
    """One plan in another trainer's words.

    Args:
        files: name (no folders) and content; the first is the one the command starts with.
        command: how to start it, one line of a POSIX shell.
        missing: fields of the recipe that cannot be said there (or only differently), each with why and what happens instead.
        notes: what else the reader must know.
    """

    files: Mapping[str, str]
    command: str
    missing: Mapping[str, Text] = field(default_factory=dict)
    notes: tuple[Text, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """One exporter.

    Args:
        name: as in `--to NAME`.
        title: the trainer or file in full, with the version that the translation was written for.
        translates: fields of the recipe that `export` says in the target's words; every other field must be in `Exported.missing`.
        export: the translation.
        stack: the name of the Stack that prices a plan for this trainer, where it is one.
    """

    name: str
    title: str
    translates: frozenset[str]
    export: Callable[[PlanFile], Exported]
    stack: str | None = None
