"""Exports: a plan as the configuration of another trainer. One file per target; `TARGETS` lists them."""

from __future__ import annotations

from ftadvise.advisor.export.accelerate import ACCELERATE, FSDP
from ftadvise.advisor.export.axolotl import AXOLOTL
from ftadvise.advisor.export.deepspeed import DEEPSPEED
from ftadvise.advisor.export.llama_factory import LLAMA_FACTORY
from ftadvise.advisor.export.ms_swift import MS_SWIFT
from ftadvise.advisor.export.plain_python import PYTHON
from ftadvise.advisor.export.skypilot import SKYPILOT
from ftadvise.advisor.export.slurm import SLURM
from ftadvise.advisor.export.target import Exported, Target
from ftadvise.advisor.export.torchtune import TORCHTUNE
from ftadvise.advisor.export.trl import TRL
from ftadvise.advisor.export.unsloth import UNSLOTH
from ftadvise.estimator.plan_file import PlanFile
from ftadvise.profiles.errors import InputError, did_you_mean

__all__ = ["TARGETS", "Exported", "Target", "export_plan", "target_of"]

TARGETS: dict[str, Target] = {
    each.name: each
    for each in (LLAMA_FACTORY, AXOLOTL, TRL, UNSLOTH, MS_SWIFT, TORCHTUNE, PYTHON, ACCELERATE, DEEPSPEED, FSDP, SKYPILOT, SLURM)
}


def target_of(name: str) -> Target:
    """The target called `name`.

    Raises:
        InputError: there is none; the hint names the nearest.
    """
    if name not in TARGETS:
        raise InputError(f"unknown target {name!r}", hint=did_you_mean(name, TARGETS) or f"known: {', '.join(TARGETS)}")
    return TARGETS[name]


def export_plan(plan_file: PlanFile, name: str) -> Exported:
    """The plan in the words of the target `name`.

    Raises:
        InputError: no such target.
    """
    return target_of(name).export(plan_file)
