"""A published speed in our words: the setting, how long one optimizer step took, and how much of the setting is known."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.accuracy.case import Case, Row

Known = Literal["fully", "partly", "approximated"]


@dataclass(frozen=True, slots=True)
class Run:
    """One published speed.

    `case` is the setting; its recipe's `seq_len` is the mean length of a padded micro batch, and its `unknown` says what a speed depends on
    that the source leaves open. `lengths` are padded lengths of micro batches that occur equally often, where more than a mean is known or
    assumed; the time is the mean over them. `seconds` is what one optimizer step took. `printed` is the figure as it was published.
    `approximated`: the base or method is not ours, and priced as the nearest one. `alike` holds what must agree, beside the recipe, for
    two runs of a source to be a pair (version, kernels, repetition).
    """

    case: Case
    seconds: float
    printed: str
    lengths: tuple[int, ...] = ()
    approximated: str = ""
    alike: str = ""

    @property
    def known(self) -> Known:
        """Approximated runs never count as known, whatever their source states."""
        return "approximated" if self.approximated else "partly" if self.case.unknown else "fully"

    @property
    def batch_lengths(self) -> tuple[int, ...]:
        """Padded lengths of the micro batches, at least one."""
        return self.lengths or (self.case.recipe.seq_len,)

    @property
    def tokens_per_step(self) -> float:
        """Padded tokens of one optimizer step on one GPU."""
        recipe = self.case.recipe
        return recipe.micro_batch * recipe.gradient_accumulation * statistics.fmean(self.batch_lengths)

    @property
    def tokens_per_second(self) -> float:
        """Padded tokens per second and GPU."""
        return self.tokens_per_step / self.seconds


def published(row: Row) -> tuple[float, str]:
    """The figure of the `throughput` column and its unit.

    Raises:
        ValueError: the column is empty.
    """
    if not row["throughput"]:
        raise ValueError(f"{row['id']} has no throughput")
    found = json.loads(row["throughput"])
    return float(found["value"]), str(found["unit"])


def run_of(case: Case, row: Row, *, tokens_per_step: float, unknown: Sequence[str] = (), approximated: str = "", alike: str = "") -> Run:
    """A run whose source counts tokens per second and GPU: `tokens_per_step` is how many it counts in one optimizer step on one GPU."""
    value, unit = published(row)
    case = dataclasses.replace(case, unknown=tuple(unknown))
    return Run(case, tokens_per_step / value, f"{value:g} {unit}", approximated=approximated, alike=alike)
