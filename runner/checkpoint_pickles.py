"""What a checkpoint's pickles would call when they are loaded. Imports torch: late.

transformers, accelerate and PEFT load tensors only (`weights_only=True`); DeepSpeed's own files are loaded without that. So that resuming
in a folder from somebody else runs nothing of theirs, each name in DeepSpeed's files is looked at before DeepSpeed loads them.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import torch

from ftadvise.profiles.errors import InputError

_DEEPSPEED = ("deepspeed.runtime.", "deepspeed.utils.")
"""Where the classes live that its checkpoints hold: loss scalers, the ZeRO stage, addresses of parameters in the flat buffers."""
_HARMLESS = frozenset({"argparse.Namespace", "builtins.set", "pathlib.PosixPath", "pathlib._local.PosixPath"})


def check_pickles(checkpoint: Path) -> None:
    """Refuse a checkpoint with a pickle that would call anything but the constructors of DeepSpeed's own classes.

    Raises:
        InputError: names the file and what it would call.
    """
    for path in sorted((*checkpoint.rglob("*.pt"), *checkpoint.rglob("*.pth"), *checkpoint.rglob("*.bin"))):
        try:
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        except Exception as error:  # noqa: BLE001 - a hostile file may fail in any way
            raise InputError(
                f"{path}: cannot be read as a checkpoint ({type(error).__name__})", hint="start again in another folder"
            ) from None
        strange = next((name for name in names if name not in _HARMLESS and not _is_class_of_deepspeed(name)), None)
        if strange is not None:
            shown = "".join(sign for sign in strange[:80] if sign.isprintable())
            raise InputError(f"{path}: loading it would run {shown}, which no checkpoint needs", hint="start again in another folder")


def _is_class_of_deepspeed(name: str) -> bool:
    """Whether `name` is a class that is defined in DeepSpeed, not something that is merely reachable from there."""
    module, _, attribute = name.rpartition(".")
    if not name.startswith(_DEEPSPEED):
        return False
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError):
        return False
    return isinstance(found, type) and found.__module__.startswith(_DEEPSPEED)
