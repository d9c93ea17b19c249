"""The trained model in one piece, as most targets want it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ftadvise.runner import merge
from ftadvise.runner.finished_run import FinishedRun


def check_mergeable(run: FinishedRun) -> None:
    """Refuse an adapter that is no change of the weights: only transformers with PEFT can serve it.

    Raises:
        InputError: virtual tokens, or layers of its own.
    """
    if run.adapter is not None:
        merge.check_mergeable(run)


def scratch_bytes(run: FinishedRun) -> int:
    """What the merged copy takes on the disk while a target is made of it."""
    return merge.merged_bytes(run, run.recipe.compute_dtype) if run.adapter is not None else 0


def merged_folder(run: FinishedRun, scratch: Path, *, say: Callable[[str], None]) -> Path:
    """A folder that holds the whole model as safetensors with its tokenizer: the trained one, or `scratch`, which is made.

    Raises:
        InputError: the adapter cannot be merged, or RAM or disk are too small.
    """
    if run.model is not None:
        return run.model
    return merge.merge_run(run, scratch, say=say).folder
