"""Imports: another trainer's configuration as a recipe on that trainer's stack, so that it can be priced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ftadvise.advisor.importing import axolotl, llama_factory, trl
from ftadvise.advisor.importing.imported import Imported
from ftadvise.advisor.importing.reader import Reader
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.yaml_store import load_yaml

__all__ = ["Imported", "read_config"]

_READERS: tuple[tuple[frozenset[str], Callable[[Reader], Imported]], ...] = (
    (llama_factory.MARKS, llama_factory.read),
    (axolotl.MARKS, axolotl.read),
    (trl.MARKS, trl.read),
)


def read_config(path: Path) -> Imported:
    """The YAML (or JSON) configuration of LLaMA-Factory, Axolotl or TRL, recognised by its keys. Nothing in it is executed.

    Raises:
        InputError: not a configuration of these, a value of the wrong kind, or training that cannot be priced (preference tuning, ...).
    """
    document = load_yaml(path, cache=False)
    if not isinstance(document, dict):
        raise InputError(f"{path}: a configuration is a mapping, this is {type(document).__name__}")
    marks, read = max(_READERS, key=lambda each: len(each[0] & document.keys()))
    if not marks & document.keys():
        hint = "LLaMA-Factory, Axolotl and TRL (trl sft) YAML is recognised by its keys"
        if str(document.get("schema", "")).startswith("ftadvise.plan-file/"):
            hint = f"this is a plan: ftadvise export {path} --list, or ftadvise run {path}"
        raise InputError(f"{path}: no configuration that can be read", hint=hint)
    return read(Reader(document, path))
