"""Stacks: the training code that executes a recipe. Data: profiles/stacks.yaml."""

from __future__ import annotations

import functools
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
    """The stack with this name.

    Raises:
        InputError: no such stack, or a version was asked for (this version of ftadvise knows one per stack).
    """
    if "==" in name:
        base, version = name.split("==", 1)
        raise InputError(f"stack {base} {version}: versions of a stack cannot be chosen yet", hint=f"use --stack {base}")
    entry = _stacks().get(name)
    if entry is None:
        raise InputError(f"unknown stack {name!r}", hint=did_you_mean(name, _stacks()) or f"known: {', '.join(_stacks())}")
    return Stack(
        name=name,
        versions=dict(entry["versions"]),
        upcasts_kbit=entry["upcasts_kbit"],
        keeps_logits=entry.get("keeps_logits", False),
        default_loss=entry["loss"],
    )
