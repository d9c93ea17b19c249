"""An adapter merged into its base: a plain safetensors model that needs no PEFT. On the CPU, checked before it has its final name."""

from __future__ import annotations

import gc
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftadvise.estimator import device_memory
from ftadvise.estimator.recipe import DTYPE_BYTES, Dtype
from ftadvise.profiles.cgroup import read_cgroup_limits
from ftadvise.profiles.cpu import probe_ram
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.local_model import stored_parameters
from ftadvise.profiles.units import gib
from ftadvise.profiles.yaml_store import load_yaml
from ftadvise.runner.finished_run import FinishedRun, explaining_memory, load_run_tokenizer, load_tuned, recipe_here
from ftadvise.runner.model_card import write_model_card
from ftadvise.runner.quiet import quiet_libraries
from ftadvise.runner.run_folder import write_folder_atomically

_REASONS: Mapping[str, str] = {
    "prefix": "prefix tuning puts keys and values in front of every layer's; the weights of the base have no place for them",
    "prompt": "prompt tuning puts vectors in front of the text; the weights of the base have no place for them",
    "adapter": "a bottleneck adapter is a small network of its own, with a non-linearity; no weight of the base can stand for it",
    "full": "full fine-tuning trained the weights themselves; nothing is left to merge",
}
_TOKENIZER_BYTES = 64 << 20
"""Tokenizer, configuration and card, generously."""
_PROMPTS = ("The capital of France is", "1 + 1 =", "请用一句话介绍你自己。", "def main():")
_RESOLUTION = {"fp32": 2.0**-23, "fp16": 2.0**-10, "bf16": 2.0**-7}
"""The distance of neighbouring numbers, as a share of the number."""


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged model, and how near its answers are to the adapter's. Differences are the largest of any logit on a few prompts."""

    folder: Path
    dtype: Dtype
    weights_bytes: int
    difference: float
    """Of the merged model, read back from the disk, from the base with its adapter."""
    effect: float
    """Of the base with its adapter from the base alone: what merging must keep."""
    same_tokens: float
    """Share of positions at which both say the same next token."""
    trained_on: str
    """The quantisation of the base in training: "none", "nf4", ..."""


def merge_run(
    run: FinishedRun,
    folder: Path,
    *,
    dtype: Dtype | None = None,
    trust_remote_code: bool = False,
    say: Callable[[str], None] = lambda _line: None,
) -> Merged:
    """Merge the run's adapter into its unquantised base and write the model with tokenizer and card into `folder`, which must be new.

    Args:
        dtype: of the merged weights; by default the recipe's compute dtype.
        say: told before anything that takes long.

    Raises:
        InputError: the method cannot be merged, the folder is there, disk or memory are too small, or rounding loses what was learned;
            nothing was written.
        OutOfMemoryError: memory ran out all the same.
    """
    check_mergeable(run)
    chosen = dtype or run.recipe.compute_dtype
    weights = merged_bytes(run, chosen)
    _check_folder(folder, weights)
    check_memory(run, chosen)
    tokenizer = load_run_tokenizer(run, trust_remote_code=trust_remote_code)
    found: list[Merged] = []

    def write(temporary: Path) -> None:
        say(f"loading the base in {chosen}")
        model = load_tuned(run, "cpu", quantized=False, dtype=chosen, trust_remote_code=trust_remote_code)
        before = _logits(model, tokenizer)
        with model.disable_adapter():
            base = _logits(model, tokenizer)
        say("merging")
        _merge_into(model, temporary)
        del model
        gc.collect()  # modules refer to each other in circles: the next model must not come on top of this one
        tokenizer.save_pretrained(str(temporary))
        write_model_card(temporary, run.report, form="merged", dtype=chosen)
        say("reading it back to compare its answers")
        found.append(
            _compared(run, folder, chosen, weights, before, base, _logits_of(temporary, run, chosen, tokenizer, trust_remote_code))
        )

    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with explaining_memory(run, "free memory, or merge on a larger machine"), quiet_libraries():
            write_folder_atomically(folder, write)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())[:100]
        raise InputError(f"{folder}: cannot be written ({reason})", hint="choose another folder with -o") from None
    return found[0]


def check_mergeable(run: FinishedRun) -> None:
    """Raise InputError, with the reason, for a method that leaves nothing to add to the base's weights."""
    reason = _REASONS.get(run.recipe.method)
    if reason is not None:
        hint = f"use {run.model} as it is" if run.recipe.method == "full" else f"use the adapter as it is: {run.adapter}"
        raise InputError(f"{run.folder}: nothing can be merged: {reason}", hint=hint)


def merged_bytes(run: FinishedRun, dtype: Dtype) -> int:
    """Bytes of the merged weights: the base's parameters, from its safetensors headers, in `dtype`.

    Raises:
        InputError: the base is stored in packed (quantised) types, to which nothing can be added.
    """
    parameters = stored_parameters(run.base) if run.base else None
    if parameters is None:
        raise InputError(
            f"{run.base}: the base is stored quantised, or its safetensors headers are damaged", hint="merge into 16-bit weights"
        )
    return parameters * DTYPE_BYTES[dtype]


def merging_bytes(run: FinishedRun, dtype: Dtype) -> int:
    """RAM that merging takes at its peak: the libraries, the weights in their new dtype, and one layer's copy and twice its change (fp32).

    Source: peft 0.21 tuners/lora/layer.py, merge with safe_merge: the weight is cloned, the change is computed in fp32 on the CPU. The
    libraries' figure is measured (estimator/allocator.yaml, cpu_process).
    """
    constants = load_yaml(Path(device_memory.__file__).with_name("allocator.yaml"))
    return int(constants["cpu_process"]["bytes"]) + merged_bytes(run, dtype) + _largest_matrix(run) * (DTYPE_BYTES[dtype] + 2 * 4)


def check_memory(run: FinishedRun, dtype: Dtype) -> None:
    """Raise InputError when merging needs more than the free RAM."""
    needed, free = merging_bytes(run, dtype), probe_ram(read_cgroup_limits()).available_bytes
    if needed > free:
        hint = "close other programs, or use a larger machine" + (", or --dtype bf16" if dtype == "fp32" else "")
        raise InputError(f"merging needs {gib(needed)} of RAM, {gib(free)} are free", hint=hint)


def _largest_matrix(run: FinishedRun) -> int:
    """Elements of the largest weight of the base."""
    from safetensors import safe_open

    largest = 0
    for path in sorted(run.base.glob("*.safetensors")) if run.base else ():
        with safe_open(path, framework="np") as file:
            largest = max(largest, *(math.prod(file.get_slice(name).get_shape()) for name in file.keys()))  # noqa: SIM118 - no mapping
    return largest


def _check_folder(folder: Path, weights_bytes: int) -> None:
    if folder.exists():
        raise InputError(f"{folder}: is already there", hint="choose another folder with -o")
    existing = next(path for path in folder.absolute().parents if path.exists())
    needed, free = weights_bytes + _TOKENIZER_BYTES, shutil.disk_usage(existing).free
    if needed > free:
        raise InputError(f"{folder}: not enough disk: {gib(needed)} are needed, {gib(free)} are free", hint="choose another disk with -o")


def _merge_into(model: Any, folder: Path) -> None:
    try:
        merged = model.merge_and_unload(safe_merge=True)  # refuses weights that are not numbers
    except ValueError as error:
        raise InputError(f"the adapter cannot be merged ({' '.join(str(error).split())[:160]})", hint="train it again") from None
    merged.config.use_cache = True  # off for training
    merged.save_pretrained(str(folder), max_shard_size="5GB")


def _logits_of(folder: Path, run: FinishedRun, dtype: Dtype, tokenizer: Any, trust_remote_code: bool) -> list[Any]:
    """The answers of the files on the disk."""
    from ftadvise.runner.load_model import load_model

    recipe = recipe_here(run.recipe, "cpu", quantized=False, dtype=dtype)
    return _logits(load_model(folder, recipe, "cpu", trust_remote_code=trust_remote_code).eval(), tokenizer)


def _logits(model: Any, tokenizer: Any) -> list[Any]:
    """The logits of each prompt, tokens x vocabulary, fp32."""
    import torch

    with torch.no_grad():
        inputs = [tokenizer(prompt, return_tensors="pt", return_token_type_ids=False) for prompt in _PROMPTS]
        return [model(**each).logits[0].float() for each in inputs]


def _compared(run: FinishedRun, folder: Path, dtype: Dtype, weights: int, adapter: list[Any], base: list[Any], merged: list[Any]) -> Merged:
    import torch

    both, alone, now = torch.cat(adapter), torch.cat(base), torch.cat(merged)
    difference, effect = float((now - both).abs().max()), float((both - alone).abs().max())
    resolution = _RESOLUTION[dtype] * float(both.abs().max())
    if not difference <= max(effect, resolution):  # also where it is not a number
        raise InputError(
            f"merging in {dtype} loses the adapter: logits differ by {difference:.3g}, its effect is {effect:.3g}",
            hint="merge with --dtype fp32, or use the adapter as it is",
        )
    same = float((now.argmax(-1) == both.argmax(-1)).float().mean())
    return Merged(folder, dtype, weights, difference, effect, same, run.recipe.quantization)
