"""The many ways of running out of memory, as one error that says what was asked and what was free. Imports torch inside functions only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import OutOfMemoryError
from ftadvise.runner.fallback import advice

_UNITS = {"bytes": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}
_ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+) (bytes|KiB|MiB|GiB)")
_FREE = re.compile(r"of which ([\d.]+) (bytes|KiB|MiB|GiB) is free")
_ON_CPU = "can't allocate memory"
"""The CPU allocator raises a plain RuntimeError."""
_IN_LIBRARIES = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "CUDA error: out of memory", "cudaErrorMemoryAllocation")
"""Libraries beside the caching allocator word it their own way."""


@contextmanager
def explaining_out_of_memory(recipe: Recipe) -> Iterator[None]:
    """Raise `OutOfMemoryError` instead of what torch, the CPU allocator, cuBLAS, cuDNN or Python raise.

    Raises:
        OutOfMemoryError: with the bytes that were asked for and free where the message has them, and what to lower.
    """
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise out_of_memory(recipe, str(error)) from None
    except RuntimeError as error:
        if _ON_CPU not in str(error) and not any(words in str(error) for words in _IN_LIBRARIES):
            raise
        raise out_of_memory(recipe, str(error)) from None


def out_of_memory(recipe: Recipe, reason: str) -> OutOfMemoryError:
    """The error for one library's message."""
    return OutOfMemoryError(f"out of memory: {asked_and_free(reason)}", hint=advice(recipe))


def asked_and_free(reason: str) -> str:
    """ "2.50 GiB were asked for, 1.20 GiB were free", or the library's own words when they do not say so."""
    asked, free = _size(_ASKED, reason), _size(_FREE, reason)
    if asked is None:
        return " ".join(reason.split())[:160] or "an allocation failed"
    return f"{_gib(asked)} asked for" + (f", {_gib(free)} free" if free is not None else "")


def _size(pattern: re.Pattern[str], text: str) -> float | None:
    found = pattern.search(text)
    return None if found is None else float(found[1]) * (1 << _UNITS[found[2]])


def _gib(size_bytes: float) -> str:
    return f"{size_bytes / (1 << 30):.2f} GiB"
