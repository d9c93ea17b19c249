"""One attempt as the worker sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftadvise.estimator.plan_file import PlanFile
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.hardware import Hardware
from ftadvise.runner.attempt import Request
from ftadvise.runner.data import RowSet

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console


@dataclass(frozen=True, slots=True)
class Job:
    """What to run, where, and how. `plan_file.recipe` is what this attempt executes; `device` is "cpu" or "cuda"."""

    plan_file: PlanFile
    request: Request
    data: RowSet
    hardware: Hardware
    device: str
    out_dir: Path
    console: Console

    @property
    def recipe(self) -> Recipe:
        """What is executed."""
        return self.plan_file.recipe

    @property
    def rehearse(self) -> bool:
        """Random weights, a few steps, nothing saved but the report."""
        return self.request.rehearse

    @property
    def trust_remote_code(self) -> bool:
        """Whether code that comes with the model may run."""
        return self.request.trust_remote_code
