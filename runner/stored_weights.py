"""The weights as the files say they are, before and after loading: what transformers would pass over in silence is an error here.

transformers gives random values to parameters that a checkpoint lacks, drops layers that the configuration does not know, does not look
at the shapes of weights that it quantises, and ignores a quantization_config that it does not understand. Each trains a broken model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.json_objects import read_json_object

_FLOATS = ("F16", "BF16", "F32", "F64")
_NAMED = 3
"""Tensors that a message names."""
_MARKS = {"nf4": ".quant_state.bitsandbytes__nf4", "fp4": ".quant_state.bitsandbytes__fp4", "int8": ".SCB"}
"""What bitsandbytes stores beside the weights of each of its formats (nn/modules.py, Linear4bit and Linear8bitLt)."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of a checkpoint. `dtype` as safetensors writes it ("BF16")."""

    file: str
    shape: tuple[int, ...]
    dtype: str


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of the safetensors files of a model, from their headers alone.

    Raises:
        InputError: a file is truncated or no safetensors file, or a tensor is not where the index says.
    """
    from safetensors import SafetensorError, safe_open

    index = folder / "model.safetensors.index.json"
    whole = folder / "model.safetensors"
    weight_map: Mapping[str, Any] = {} if whole.is_file() else read_json_object(index).get("weight_map") or {}
    found: dict[str, Stored] = {}
    for name in sorted({str(file) for file in weight_map.values()} or {whole.name}):
        try:
            with safe_open(folder / name, framework="np") as file:
                for key in file.keys():  # noqa: SIM118 - safe_open is no mapping
                    part = file.get_slice(key)
                    found[key] = Stored(name, tuple(part.get_shape()), str(part.get_dtype()))
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(
                f"{folder / name}: the file is corrupt or was not downloaded to its end ({' '.join(str(error).split())[:120]})",
                hint="download it again",
            ) from None
    lost = sorted(key for key, file in weight_map.items() if key not in found or found[key].file != file)
    if lost:
        raise InputError(f"{index}: {_names(lost)}: not in the file that the index names", hint="download the model again")
    return found


def stored_quantization(config: Mapping[str, Any], recipe: Recipe, stored: Mapping[str, Stored], folder: Path) -> bool:
    """Whether the checkpoint is quantised already, and just as the recipe wants it.

    Raises:
        InputError: it is quantised in another way, says so and is not, or says what nobody understands.
    """
    about = config.get("quantization_config")
    if about is None:
        return False
    where = f"{folder / 'config.json'}, key 'quantization_config'"
    method = about.get("quant_method") if isinstance(about, dict) else None
    if not isinstance(method, str):
        raise InputError(f"{where}: names no quant_method", hint="remove the key, when the weights are not quantised")
    own = _bitsandbytes_format(about) if method == "bitsandbytes" else None
    if own is None:
        raise InputError(
            f"{where}: the weights are quantised already ({method!r:.40}), which no recipe trains on",
            hint="name the model that they were made from; a recipe with quantization: nf4 quantises it while loading",
        )
    if not any(name.endswith(_MARKS[own]) for name in stored):
        raise InputError(f"{where}: says {own}, but the tensors are not quantised", hint="remove the key, or download the model again")
    double = bool(about.get("bnb_4bit_use_double_quant", False))
    if own != recipe.quantization or (own != "int8" and double != recipe.double_quantization):
        wanted = f"{recipe.quantization}{' with double quantisation' if recipe.double_quantization else ''}"
        raise InputError(
            f"{where}: the weights are quantised already ({own}{' with double quantisation' if double else ''}), the recipe wants {wanted}",
            hint=f"quantization: {own}" + (f", double_quantization: {str(double).lower()}" if own != "int8" else "") + " in the plan",
        )
    return True


def check_loaded(model: Any, info: Mapping[str, Any], stored: Mapping[str, Stored], folder: Path) -> None:
    """Raise InputError when not every parameter of the model has the checkpoint's value.

    Args:
        info: what `from_pretrained(..., output_loading_info=True)` says.
    """
    missing = sorted(info["missing_keys"])
    if missing:
        raise InputError(
            f"{folder}: the checkpoint lacks {_names(missing)}, which would stay random",
            hint="download it again; if config.json was edited, it asks for more than there is",
        )
    parameters = dict(model.named_parameters())
    wrong = [f"{name} is {list(has)} and should be {list(wants)}" for name, has, wants in sorted(info["mismatched_keys"])]
    wrong += _quantised_shapes(model, stored)
    if wrong:
        raise InputError(f"{folder}: config.json does not describe these weights: {_names(wrong)}", hint="use the weights' own config.json")
    numbered = {_pattern(name) for name in parameters}
    dropped = sorted(name for name in info["unexpected_keys"] if _pattern(name) in numbered)
    if dropped:
        raise InputError(f"{folder}: config.json leaves out {_names(dropped)} of the checkpoint", hint="use the weights' own config.json")
    no_floats = [f"{name} ({stored[name].dtype})" for name in parameters if name in stored and stored[name].dtype not in _FLOATS]
    if no_floats and not any(name.endswith(mark) for name in stored for mark in _MARKS.values()):
        raise InputError(f"{folder}: {_names(no_floats)}: not stored as 16- or 32-bit numbers", hint="name the unquantised model")


def check_finite(model: Any, folder: Path, dtype: str) -> None:
    """Raise InputError when a weight is not a number or infinite; reads every weight once, a thousandth of loading them.

    Args:
        dtype: the recipe's compute dtype, for what to do about it.
    """
    bad = [name for name, tensor in _floating(model) if not _is_finite(tensor)]
    if bad:
        hint = "larger than fp16 can hold: use compute_dtype: bf16 or fp32" if dtype == "fp16" else "the checkpoint is broken: take another"
        raise InputError(f"{folder}: {_names(list(dict.fromkeys(bad)))}: not finite in {dtype}", hint=hint)


def _floating(model: Any) -> Iterable[tuple[str, Any]]:
    """What the weights are computed from: themselves, or the scales of quantised ones."""
    for name, parameter in model.named_parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            yield name, state.offset if state.nested else state.absmax
            if state.nested:
                yield name, state.state2.absmax
        elif getattr(parameter, "SCB", None) is not None:
            yield name, parameter.SCB
        elif parameter.is_floating_point():
            yield name, parameter.detach()


def _is_finite(tensor: Any) -> bool:
    import torch

    if tensor.device.type == "meta" or tensor.numel() == 0:  # another rank's part
        return True
    low, high = torch.aminmax(tensor)  # both are NaN where one element is; takes no memory, unlike isfinite
    return bool(torch.isfinite(low) and torch.isfinite(high))


def _bitsandbytes_format(about: Mapping[str, Any]) -> str | None:
    if about.get("load_in_8bit") is True:
        return "int8"
    kind = about.get("bnb_4bit_quant_type", "fp4")
    return kind if about.get("load_in_4bit") is True and kind in ("nf4", "fp4") else None


def _quantised_shapes(model: Any, stored: Mapping[str, Stored]) -> Iterable[str]:
    """Linear layers whose stored weight has another shape than the layer; transformers compares only those it does not quantise."""
    for name, module in model.named_modules():
        tensor = stored.get(f"{name}.weight")
        if type(module).__name__ not in ("Linear4bit", "Linear8bitLt") or tensor is None or tensor.dtype not in _FLOATS:
            continue
        wanted = (module.out_features, module.in_features)
        if tensor.shape != wanted:
            yield f"{name}.weight is {list(tensor.shape)} and should be {list(wanted)}"


def _pattern(name: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", ".#", name)


def _names(found: list[str]) -> str:
    shown = ", ".join(found[:_NAMED])
    return shown + (f" and {len(found) - _NAMED} more" if len(found) > _NAMED else "")
