"""The tables of docs/export.md, found out by exporting: what each target says of each field of the recipe."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.exports.recipes import VALUES, plan_file, variants
from ftadvise.advisor.export import TARGETS, export_plan
from ftadvise.advisor.export.words import value_words

_RESULTS = Path(__file__).parents[1] / "results" / "exports.csv"
_CONFIGURATIONS = ("llama-factory", "axolotl", "trl")


def matrix() -> str:
    """Fields by targets: yes, the values that cannot be said, or "-" where none can."""
    lines = [f"| field | {' | '.join(TARGETS)} |", "|---" * (len(TARGETS) + 1) + "|"]
    for field in VALUES:
        cells = []
        for name in TARGETS:
            missing = list(_missing(name, field))
            some = "all but " if len(missing) > len(VALUES[field]) / 2 else "not "
            words = missing if some == "not " else [value for value in map(value_words, VALUES[field]) if value not in missing]
            cells.append("yes" if not missing else "-" if not words else f"{'only' if some != 'not ' else 'not'} {', '.join(words)}")
        lines.append(f"| `{field}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def keys() -> str:
    """Fields by configuration files: the keys that change with the field."""
    lines = [f"| field | {' | '.join(_CONFIGURATIONS)} |", "|---" * (len(_CONFIGURATIONS) + 1) + "|"]
    for field in VALUES:
        cells = [", ".join(f"`{key}`" for key in _keys(name, field)) or "-" for name in _CONFIGURATIONS]
        lines.append(f"| `{field}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def accepted() -> str:
    """What the targets' own parsers said, from the last `make check-exports`."""
    with _RESULTS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = ["| target | written for | parser | plans accepted |", "|---|---|---|---|"]
    lines += [
        f"| `{r['target']}` | {r['title']} | {r['parser']} | {r['accepted'] + ' of ' + r['plans'] if r['plans'] != '0' else '-'} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def _missing(name: str, field: str) -> Iterator[str]:
    """Values that the target cannot say from any recipe that we try."""
    groups = list(variants(field))
    for number, value in enumerate(VALUES[field]):
        if all(field in export_plan(plan_file(group[number]), name).missing for group in groups):
            yield value_words(value)


def _keys(name: str, field: str) -> list[str]:
    found: dict[str, None] = {}
    for group in variants(field):
        exports = [exported for recipe in group if field not in (exported := export_plan(plan_file(recipe), name)).missing]
        documents = [dict(_flat(yaml.safe_load(next(iter(each.files.values()))))) for each in exports]
        for key in dict.fromkeys(key for document in documents for key in document):
            if len({json.dumps(document.get(key)) for document in documents}) > 1:
                found[key] = None
    return list(found)


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
