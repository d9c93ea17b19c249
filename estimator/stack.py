"""Stacks: the training code that executes a recipe. Data: profiles/stacks.yaml."""

from __future__ import annotations

import functools
import importlib.metadata
import re
from pathlib import Path
from typing import Any

import ftadvise.profiles
from ftadvise.estimator.estimate_types import Stack
from ftadvise.profiles.errors import InputError, did_you_mean
from ftadvise.profiles.yaml_store import load_yaml

DEFAULT_STACK = "trl"


@functools.cache
def _stacks() -> dict[str, Any]:
    stacks: dict[str, Any] = load_yaml(Path(ftadvise.profiles.__file__).parent / "stacks.yaml")
    return stacks


@functools.cache
def stack_of(name: str = DEFAULT_STACK) -> Stack:
    """The stack called "trl" or, at a version, "trl==1.10".

    Without a version the installed one counts, and where none is installed the one that ftadvise is tested with.

    Raises:
        InputError: no such stack, or not a version.
    """
    base, _, wanted = name.partition("==")
    entry = _stacks().get(base)
    if entry is None:
        raise InputError(f"unknown stack {base!r}", hint=did_you_mean(base, _stacks()) or f"known: {', '.join(_stacks())}")
    versions, loss = dict(entry["versions"]), entry["loss"]
    if isinstance(loss, dict):
        package = entry["package"]
        versions[package] = wanted or _installed(package) or versions[package]
        loss = loss_of_version(loss, versions[package])
    elif wanted:
        raise InputError(f"stack {base} is one for all its versions ({versions})", hint=f"use --stack {base}")
    return Stack(
        name=base,
        versions=versions,
        upcasts_kbit=entry["upcasts_kbit"],
        keeps_logits=entry.get("keeps_logits", False),
        default_loss=loss,
    )


def trl_loss(version: str) -> str:
    """The loss implementation of this version of TRL's SFTTrainer: "full", "chunked" or "fused"."""
    return loss_of_version(_stacks()[DEFAULT_STACK]["loss"], version)


def loss_of_version(loss_from: dict[str, str], version: str) -> str:
    """The entry with the highest version that is not above `version`.

    Raises:
        InputError: `version` is not one.
    """
    here = _numbers(version)
    return max(((_numbers(first), loss) for first, loss in loss_from.items() if _numbers(first) <= here), key=lambda pair: pair[0])[1]


def _numbers(version: str) -> tuple[int, ...]:
    parts = re.match(r"\d+(\.\d+)*", version)
    if parts is None:
        raise InputError(f"{version!r} is not a version", hint="for example: --stack trl==1.16")
    return tuple(int(part) for part in parts.group().split("."))


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
