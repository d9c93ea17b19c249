"""The exact values of what is trained, under the names they have in the running model. Imports torch: late.

The formats of PEFT and transformers are for using a model, not for going on with its training: PEFT reads adapters back as fp32, cuts
AdaLoRA's matrices down, and stores the product of a prefix encoder instead of the encoder; transformers renames weights while saving and
ignores names that it does not find while loading. A checkpoint therefore holds each trained tensor as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ftadvise.profiles.errors import InputError, TrainingDivergedError

TRAINED_FILE = "trained.safetensors"


def trained_tensors(model: Any) -> dict[str, torch.Tensor]:
    """Every parameter that is trained, by name; tied ones once."""
    return {name: parameter.data for name, parameter in model.named_parameters() if parameter.requires_grad}


def write_trained(model: Any, folder: Path, *, step: int) -> None:
    """Write what is trained into `folder`.

    Raises:
        TrainingDivergedError: a value is not a finite number; nothing is written.
    """
    tensors = trained_tensors(model)
    broken = next((name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()), None)
    if broken is not None:
        raise diverged(f"the weights after step {step} are no longer numbers ({broken})")
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / TRAINED_FILE)


def read_trained(model: Any, folder: Path) -> None:
    """Put the values of a checkpoint back into `model`.

    Raises:
        InputError: the checkpoint is of another model or recipe.
    """
    saved, now = load_file(folder / TRAINED_FILE), trained_tensors(model)
    odd = sorted(saved.keys() ^ now.keys()) or [n for n, t in now.items() if (saved[n].shape, saved[n].dtype) != (t.shape, t.dtype)]
    if odd:
        raise InputError(
            f"{folder}: the checkpoint is of another model or recipe: {', '.join(odd[:3])}", hint="start again in another folder"
        )
    for name, tensor in now.items():
        tensor.copy_(saved[name])


def diverged(problem: str) -> TrainingDivergedError:
    """The error, with what to try."""
    return TrainingDivergedError(
        f"{problem}; the checkpoints before it are kept",
        hint="lower learning_rate in the plan (try a third of it), use bf16 instead of fp16, and look at the rows with ftadvise data FILE",
    )


def restore_optimizer_dtypes(optimizer: Any, file: Path) -> None:
    """Undo the cast with which PyTorch loads optimizer states: it gives them the parameter's dtype.

    Adafactor keeps fp32 states for bf16 weights; rounded to bf16 they would make another run of it.
    """
    inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
    parameters = [parameter for group in inner.param_groups for parameter in group["params"]]
    if all(parameter.dtype == torch.float32 for parameter in parameters) or not file.exists():
        return
    states = inner.state_dict()["state"]
    for index, slots in torch.load(file, map_location="cpu", weights_only=True)["state"].items():
        for name, value in slots.items():
            loaded = states[index].get(name)
            if isinstance(value, torch.Tensor) and isinstance(loaded, torch.Tensor) and loaded.dtype != value.dtype:
                states[index][name] = value.to(loaded.device)
