"""Every published row, mapped: the one place that says which family of ids is read by which file of `sources/`.

CRITERION: a case is *fully known* when its source states every setting that memory depends on: model and dtype of the base, method, rank,
targets and dtype of the adapters, micro batch and the length of the longest batch (packed, padded or forced; a limit is not a length),
checkpointing, attention, loss, optimizer, training code with its version, GPU count, and what the figure was read from. One of them open
makes it *partly known*, and it is scored apart. The error plays no part in it.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.accuracy.case import Case, Excluded, Row, Verdict
from benchmarks.accuracy.published import read
from benchmarks.accuracy.sources import fms, hf4bit, litgpt, llama_factory, peft_comparison, qwen, swift, torchtune
from ftadvise.estimator.stack import stack_of
from ftadvise.profiles.errors import InputError

CRITERION = __doc__.split("CRITERION: ")[1]
_FAMILIES: dict[str, Callable[[Row], Case | Excluded]] = {
    "fms": fms.case,
    "peft": peft_comparison.case,
    "litgpt": litgpt.case,
    "qwen1": qwen.case,
    "swift": swift.case,
    "llamafactory": llama_factory.case,
    "torchtune": torchtune.case,
}


def single_gpu() -> list[Case | Excluded]:
    """The rows of memory_measurements.csv, in order."""
    return [_case(row) for row in read("memory_measurements.csv")]


def multi_gpu() -> list[Case | Excluded]:
    """The rows of memory_measurements_multi_gpu.csv, in order."""
    return [_case(row) for row in read("memory_measurements_multi_gpu.csv")]


def verdicts() -> list[Verdict]:
    """The rows of fits_or_not.csv, in order."""
    return [hf4bit.verdict(row) for row in read("fits_or_not.csv")]


def _case(row: Row) -> Case | Excluded:
    found = _FAMILIES[row["id"].split("-")[0]](row)
    if isinstance(found, Case):
        try:
            stack_of(found.stack)
        except InputError:
            return Excluded(
                found.id, found.source, f"training code ({row['acceleration'] or row['framework']}): no stack {found.stack} yet"
            )
    return found
