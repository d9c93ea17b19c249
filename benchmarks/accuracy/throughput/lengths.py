"""Padded lengths of micro batches, from an assumed distribution of sample lengths (lengths.yaml)."""

from __future__ import annotations

import functools
import math
import random
import statistics
from pathlib import Path
from typing import Any

from ftadvise.profiles.yaml_store import load_yaml

POINTS = 8
_SAMPLES = 20_000


@functools.cache
def batch_lengths(name: str, micro_batch: int, tokenizer: str) -> tuple[int, ...]:
    """`POINTS` lengths that are equally frequent among the micro batches, in tokens and ascending: the means of their octiles."""
    data = _data(name)
    samples = sample_lengths(name, tokenizer)
    window = data["window"] if data["batching"] == "bucketed" else micro_batch
    longest: list[float] = []
    for start in range(0, len(samples) - window + 1, window):
        inside = sorted(samples[start : start + window])
        longest += inside[micro_batch - 1 :: micro_batch]
    longest.sort()
    share = len(longest) / POINTS
    return tuple(max(1, round(statistics.fmean(longest[int(share * i) : int(share * (i + 1))]))) for i in range(POINTS))


@functools.cache
def sample_lengths(name: str, tokenizer: str) -> tuple[float, ...]:
    """Equally spaced quantiles of the distribution, in tokens, in an order that a seed decides."""
    data = _data(name)
    normal, kept = statistics.NormalDist(), 1 - data["dropped"]
    drawn = [math.exp(data["deviation"] * normal.inv_cdf(kept * (i + 0.5) / _SAMPLES)) for i in range(_SAMPLES)]
    scale = (data["mean"][tokenizer] - data["shift"]) / statistics.fmean(drawn)
    lengths = [min(data["longest"][tokenizer], data["shift"] + scale * each) for each in drawn]
    random.Random(0).shuffle(lengths)  # noqa: S311
    return tuple(lengths)


@functools.cache
def _data(name: str) -> dict[str, Any]:
    found: dict[str, Any] = load_yaml(Path(__file__).with_name("lengths.yaml"))[name]
    return found
