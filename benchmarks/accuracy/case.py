"""One published run in our words: what was trained where, what was measured, and how much of it is known.

A row of the published tables becomes either a `Case`, which can be predicted, or an `Excluded` with the reason. No row disappears.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ftadvise.estimator.recipe import Recipe

Row = Mapping[str, str]
Metric = Literal["allocated", "reserved", "device_used"]
GIB = 2**30
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Measurement:
    """A peak in bytes. `named` is False when the source does not say what it read; it is then compared with the device's use."""

    metric: Metric
    peak_bytes: float
    named: bool = True


@dataclass(frozen=True, slots=True)
class Case:
    """A published run that can be predicted.

    `measured` starts with the figure of the table's peak column; a second reading of the same run follows. `unknown` says what of the
    settings the source leaves open, in words; a case is *fully known* when there is nothing. That is decided by the settings alone, never
    by how well the prediction fits (see `rows.CRITERION`). `stack_flags` are details of the source's own code that differ from the stack.
    """

    id: str
    source: str
    model: str
    gpu: str
    recipe: Recipe
    stack: str
    measured: tuple[Measurement, ...]
    unknown: tuple[str, ...] = ()
    stack_flags: Mapping[str, object] = field(default_factory=dict)
    n_gpus: int = 1

    @property
    def fully_known(self) -> bool:
        """Whether the source states every setting that memory depends on."""
        return not self.unknown


@dataclass(frozen=True, slots=True)
class Verdict:
    """A published run of which only success or out-of-memory is known.

    Its settings are open within `recipes`: the answer must be right for every one of them.
    """

    id: str
    source: str
    model: str
    gpu: str
    recipes: tuple[Recipe, ...]
    stack: str
    fits: bool


@dataclass(frozen=True, slots=True)
class Excluded:
    """A row that is not predicted, and why."""

    id: str
    source: str
    reason: str


def gib(value: str) -> float:
    """A cell in GiB as bytes."""
    return float(value) * GIB


def peak(row: Row, metric: Metric, *, named: bool = True) -> tuple[Measurement, ...]:
    """The figure of the row's peak column; none where the table has no such column (the throughput rows)."""
    value = row.get("peak_mem_gib_norm")
    return (Measurement(metric, gib(value), named),) if value else ()


def version_in(framework: str, package: str) -> str:
    """The version of a package that the `framework` column names, such as "4.48.1".

    Raises:
        ValueError: the column does not name that package with a version.
    """
    found = re.search(rf"\b{re.escape(package)} (\d+(?:\.\d+)*)", framework)
    if found is None:
        raise ValueError(f"no version of {package} in {framework!r}")
    return found[1]


def flag(value: str) -> bool:
    """A cell that says True or False; empty counts as False."""
    return value == "True"
