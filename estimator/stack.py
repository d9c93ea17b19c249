"""Stacks: the training code that executes a recipe. Data: profiles/stacks.yaml and profiles/losses.yaml."""

from __future__ import annotations

import functools
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ftadvise.profiles
from ftadvise.estimator.estimate_types import Stack
from ftadvise.estimator.loss_kernel import LossKernel
from ftadvise.profiles.errors import InputError, did_you_mean
from ftadvise.profiles.yaml_store import load_yaml

DEFAULT_STACK = "trl"
_ABOUT = ("description", "package", "extends", "of_the_past", "source", "versions")
_MERGED = ("versions", "defaults", "quantized_defaults")


@functools.cache
def stack_of(name: str = DEFAULT_STACK) -> Stack:
    """The stack called "trl", at a version "trl==1.10", and with companions "trl==0.13,transformers==4.48.1".

    Without a version the installed one counts, and where none is installed the one that the data names.

    Raises:
        InputError: no such stack, not a version, or not a package of that stack.
    """
    first, *companions = name.split(",")
    base, _, version = first.partition("==")
    if base not in stack_names():
        raise InputError(f"unknown stack {base!r}", hint=did_you_mean(base, stack_names()) or f"known: {', '.join(stack_names())}")
    entry = _entry(base)
    wanted = _wanted(base, entry, version, companions)
    if "==" in first and not version:
        raise InputError(f"{first!r} names no version", hint=f"for example: --stack {base}=={entry['versions'][entry['package']]}")
    versions = _versions(entry, wanted)
    fields: dict[str, Any] = {field: _at(value, versions) for field, value in entry.items() if field not in _ABOUT}
    fields["losses"] = {loss: _kernel(kernel, versions) for loss, kernel in fields["losses"].items()}
    fields |= {field: tuple(value) for field, value in fields.items() if isinstance(value, list)}
    return Stack(name=base, versions=versions, **fields)


def stack_names() -> tuple[str, ...]:
    """Every known stack."""
    return tuple(_data("stacks.yaml"))


def describe_stack(name: str) -> tuple[str, str]:
    """What a stack is, and where its facts were read."""
    entry = _data("stacks.yaml")[name]
    return entry["description"], entry["source"]


def trl_loss(version: str) -> str:
    """The loss implementation of this version of TRL's SFTTrainer: "full", "chunked" or "fused"."""
    return stack_of(f"{DEFAULT_STACK}=={version}").default_loss


@functools.cache
def _data(file: str) -> dict[str, Any]:
    data: dict[str, Any] = load_yaml(Path(ftadvise.profiles.__file__).parent / file)
    return data


def _entry(name: str) -> dict[str, Any]:
    """The entry of this name on top of those it extends."""
    own: dict[str, Any] = _data("stacks.yaml")[name]
    if "extends" not in own:
        return dict(own)
    below = _entry(own["extends"])
    return below | own | {field: below.get(field, {}) | own.get(field, {}) for field in _MERGED}


def _kernel(name: str, versions: Mapping[str, str]) -> LossKernel:
    fields = {field: _at(value, versions) for field, value in _data("losses.yaml")[name].items() if field != "source"}
    return LossKernel(name, **fields)


def _wanted(base: str, entry: Mapping[str, Any], version: str, companions: list[str]) -> dict[str, str]:
    wanted = {entry["package"]: version} if version else {}
    for companion in companions:
        package, _, of = companion.strip().partition("==")
        if package not in entry["versions"]:
            raise InputError(f"{package!r} is no package of the stack {base}", hint=did_you_mean(package, entry["versions"]))
        wanted[package] = of
    for of in wanted.values():
        _numbers(of)
    return wanted


def _versions(entry: Mapping[str, Any], wanted: Mapping[str, str]) -> dict[str, str]:
    """Every package's version. The stack's own decides first: where it is not the installed one, neither are its companions."""
    main = entry["package"]
    here = None if main in wanted or entry.get("of_the_past") else _installed(main)
    versions = {main: wanted.get(main) or here or entry["versions"][main]}
    for package, value in entry["versions"].items():
        if package != main:
            versions[package] = wanted.get(package) or (here and _installed(package)) or _at(value, versions)
    return versions


def _at(value: Any, versions: Mapping[str, str]) -> Any:
    """`value`, or where it is {package: {first version: value}}, the one that holds at the package's version; also inside a mapping.

    Of a package that the stack does not name, the newest.
    """
    if not isinstance(value, dict):
        return value
    for package, by_version in value.items():
        if isinstance(by_version, dict) and all(key[0].isdigit() for key in by_version):
            here = _numbers(versions[package]) if package in versions else (math.inf,)
            return max(((first, found) for first, found in _by_number(by_version) if first <= here), key=lambda pair: pair[0])[1]
    return {key: _at(inner, versions) for key, inner in value.items()}


def _by_number(by_version: Mapping[str, Any]) -> list[tuple[tuple[int, ...], Any]]:
    return [(_numbers(first), found) for first, found in by_version.items()]


def _numbers(version: str) -> tuple[int, ...]:
    parts = re.match(r"\d+(\.\d+)*", version)
    if parts is None:
        raise InputError(f"{version!r} is not a version", hint="for example: --stack trl==1.16")
    return tuple(int(part) for part in parts.group().split("."))


@functools.cache
def _installed(package: str) -> str | None:
    """The version in the name of the package's .dist-info folder, as installers must write it (PyPA: recording installed projects).

    `importlib.metadata` reads the same, but its import takes 30 ms, a twentieth of a cold `ftadvise plan`.
    """
    prefix = re.sub(r"[-_.]+", "_", package).lower() + "-"
    for folder in sys.path:
        for found in Path(folder).glob(f"{prefix}*.dist-info"):
            return found.name[len(prefix) : -len(".dist-info")]
    return None
