"""A model on this disk: a folder with config.json, or a GGUF file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ftadvise.profiles.errors import InputError
from ftadvise.profiles.gguf_header import spec_from_gguf
from ftadvise.profiles.json_objects import read_json_object
from ftadvise.profiles.model_config import spec_from_config
from ftadvise.profiles.model_spec import ModelSpec

_MAX_HEADER_BYTES = 100 << 20  # the limit of the safetensors library
FULL_WIDTH = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
"""Safetensors types with one element per weight; packed types (U8, I32) hold several."""


def spec_from_path(path: Path) -> ModelSpec:
    """The ModelSpec of a model folder or GGUF file.

    Raises:
        InputError: nothing there, no config.json, or a broken one.
    """
    if path.is_dir():
        return _spec_from_folder(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder", hint="name a folder that holds config.json, or a .gguf file")
    if path.name == "config.json":
        return _spec_from_folder(path.parent)
    return spec_from_gguf(path)


def _spec_from_folder(folder: Path) -> ModelSpec:
    if (folder / "config.json").is_file():
        return spec_from_config(
            read_json_object(folder / "config.json"),
            source=str(folder / "config.json"),
            model_id=folder.absolute().name or str(folder),
            stored_params=stored_parameters(folder),
            local_path=str(folder),
        )
    if (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{folder}: this is an adapter, not a model", hint="name its base model (base_model_name_or_path in adapter_config.json)"
        )
    gguf_files = sorted(folder.glob("*.gguf"))
    if len(gguf_files) == 1:
        return spec_from_gguf(gguf_files[0])
    hint = f"name one of its {len(gguf_files)} GGUF files" if gguf_files else "name the folder that the model was downloaded to"
    raise InputError(f"{folder}: no config.json in this folder", hint=hint)


def stored_parameters(folder: Path) -> int | None:
    """Elements in the safetensors files of a folder, from their headers; None without such files or when one is broken or packed."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        elements = _elements(path)
        if elements is None:
            return None
        total += elements
    return total or None


def _elements(path: Path) -> int | None:
    """Elements of one safetensors file: u64 header length, then a JSON object of names, types, shapes."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _MAX_HEADER_BYTES:
                return None
            header: Any = json.loads(file.read(length))
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        if any(entry["dtype"] not in FULL_WIDTH for entry in tensors):
            return None
        total = sum(math.prod(int(size) for size in entry["shape"]) for entry in tensors)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return total if 0 < total < 10**15 else None
