"""Checkpoints in Python's pickle format (pytorch_model.bin): refused unless asked for, then converted once into safetensors.

A pickle can run any code when it is read. torch's `weights_only` unpickler builds tensors and nothing else, and is used here; it had a
hole before (CVE-2025-32434, torch 2.5), which is why even this is not done unasked.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftadvise.profiles.errors import InputError
from ftadvise.profiles.json_objects import read_json_object
from ftadvise.runner.converted import conversion_folder, converted_once
from ftadvise.runner.quiet import ignoring

FLAG = "--allow-pickle"
PATTERN = "pytorch_model*.bin"
_INDEX = "pytorch_model.bin.index.json"
_WRITTEN_ANEW = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.safetensors", "*.index.json", "*.py")


def pickle_files(folder: Path) -> list[Path]:
    """The pickles that hold a model's weights; empty where there are none."""
    return sorted(folder.glob(PATTERN))


def refused(where: str) -> InputError:
    """The error for a model that has nothing but pickles."""
    return InputError(
        f"{where}: the weights are there as pickle only ({PATTERN}), which can run code when it is read",
        hint=f"look for a safetensors version; when you trust the source, {FLAG} converts it once, reading tensors only",
    )


def converted_pickle_folder(source: Path, *, allowed: bool, say: Callable[[str], None] = lambda _line: None) -> Path:
    """The safetensors folder made of the pickles in `source`; made on the first call that is `allowed` to.

    Raises:
        InputError: not made yet and not allowed, or the files hold anything but tensors.
    """
    files = pickle_files(source)
    try:
        facts = [file.stat() for file in files]
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror or error})") from None
    folder = conversion_folder(source.name, sum(each.st_size for each in facts), max(each.st_mtime for each in facts))
    if not folder.is_dir() and not allowed:
        raise refused(str(source))
    return converted_once(source, folder, lambda target: _convert(source, files, target), lambda: say(f"converting {source.name}; once"))


def _convert(source: Path, files: list[Path], target: Path) -> None:
    from safetensors.torch import save_file

    if (source / _INDEX).is_file():
        named = {str(name) for name in (read_json_object(source / _INDEX).get("weight_map") or {}).values()}
        lost = sorted(named - {file.name for file in files})
        if lost:
            raise InputError(f"{source / _INDEX}: names {', '.join(lost[:3])}, which is not there", hint="download the model again")
    weight_map: dict[str, str] = {}
    for number, file in enumerate(files, 1):
        name = f"model-{number:05d}.safetensors"
        tensors = _tensors(file)
        weight_map |= dict.fromkeys(tensors, name)
        save_file(tensors, target / name, metadata={"format": "pt"})
    (target / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
    for path in source.iterdir():
        if path.is_file() and not any(path.match(pattern) for pattern in _WRITTEN_ANEW):
            shutil.copyfile(path, target / path.name)


def _tensors(file: Path) -> dict[str, Any]:
    """The tensors of one pickle, each with memory of its own, as safetensors wants them."""
    import pickle

    import torch

    try:
        with ignoring("Detected pickle protocol"):
            found = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        reason = "it holds more than tensors" if "weights_only" in str(error).lower() else "it is corrupt"
        raise InputError(f"{file}: refused: {reason}", hint="look for a safetensors version of the model") from None
    if not isinstance(found, dict) or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in found.items()):
        raise InputError(f"{file}: refused: it is no dictionary of tensors", hint="look for a safetensors version of the model")
    seen: set[int] = set()
    tensors = {}
    for name, tensor in found.items():
        place = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if place in seen else tensor.contiguous()
        seen.add(place)
    return tensors
