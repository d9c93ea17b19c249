"""Every row of throughput_measurements.csv, mapped, and the part of the benchmark to which each source belongs.

CRITERION: a run is *fully known* when its source states every setting that speed depends on: model and dtype of the base, method, rank,
targets, micro batch and the padded length of every batch (packed, or inputs of exactly this length; a limit or a mean is not a length),
checkpointing, attention, optimizer, GPUs on one machine, and training code, with its version, that is one of our stacks. One of them open
makes it *partly known*. *Approximated* runs have a base or an engine that is not in the recipe vocabulary and are priced as the nearest
one. The groups are scored apart; the error plays no part in it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from benchmarks.accuracy.case import Excluded, Row
from benchmarks.accuracy.published import read
from benchmarks.accuracy.sources import fms, litgpt, llama_factory, peft_comparison, pretraining, qwen, torchtune
from benchmarks.accuracy.throughput.run import Run
from ftadvise.profiles.yaml_store import load_yaml

Part = Literal["derive", "report"]
CRITERION = __doc__.split("CRITERION: ")[1]
_FAMILIES: dict[str, Callable[[Row], Run | Excluded]] = {
    "fms": fms.speed,
    "peft": peft_comparison.speed,
    "litgpt": litgpt.speed,
    "qwen1": qwen.speed,
    "llamafactory": llama_factory.speed,
    "torchtune": torchtune.speed,
    "llmfoundry": pretraining.speed,
    "internevo": pretraining.speed,
}


def runs() -> list[Run | Excluded]:
    """The rows of throughput_measurements.csv, in order."""
    return [_FAMILIES[row["id"].split("-")[0]](row) for row in read("throughput_measurements.csv")]


def source_of(each: Run | Excluded) -> str:
    """The source of a row, mapped or not."""
    return each.case.source if isinstance(each, Run) else each.source


@functools.cache
def parts() -> dict[Part, dict[str, Any]]:
    """What parts.yaml says: the sources of each part, and why."""
    found: dict[Part, dict[str, Any]] = load_yaml(Path(__file__).with_name("parts.yaml"))
    return found


def part_of(source: str) -> Part:
    """Whether constants may be derived from this source, or are only reported on it."""
    return "derive" if source in parts()["derive"]["sources"] else "report"


def of_part(every: Sequence[Run | Excluded], part: Part | None) -> list[Run | Excluded]:
    """The rows of one part, or all."""
    return [each for each in every if part is None or part_of(source_of(each)) == part]
