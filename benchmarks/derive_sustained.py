"""Derive `training: sustained` of estimator/speed/efficiency.yaml: the share of matrix rates at which the median speed error is zero.

    python benchmarks/derive_sustained.py

Only rows of the part `derive` (accuracy/throughput/parts.yaml) on one machine, of 1B to 7B parameters and up to 8,192 tokens: there matrix
products are most of a step, and neither the network nor attention kernels of 2023 decide.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.accuracy.throughput.rows import of_part, runs
from benchmarks.accuracy.throughput.score import score
from ftadvise.estimator import throughput
from ftadvise.estimator.speed.device_rates import rates_of
from ftadvise.estimator.speed.rates import Rates
from ftadvise.profiles.hardware import Hardware

MODELS, GPUS, LONGEST = ("MPT-1b", "MPT-7b", "InternLM-7B"), 8, 8192
SHARES = [round(0.76 + 0.02 * step, 2) for step in range(13)]


def errors(share: float) -> dict[str, list[float]]:
    """Predicted over measured speed minus 1, by GPU, with this share everywhere."""

    def rates(hardware: Hardware) -> Rates | None:
        found = rates_of(hardware)
        return found and dataclasses.replace(found, sustained=share)

    with mock.patch.object(throughput, "rates_for", rates):
        scored, _ = score(of_part(runs(), "derive"))
    by_gpu: dict[str, list[float]] = {}
    for each in scored:
        case = each.run.case
        if case.n_gpus == GPUS and case.model.endswith(MODELS) and case.recipe.seq_len <= LONGEST:
            by_gpu.setdefault(case.gpu.split()[0], []).append(each.error)
    return by_gpu


def main() -> None:
    """Print the median error at every share; the one nearest to zero is the derived value."""
    table = {share: {gpu: statistics.median(found) for gpu, found in errors(share).items()} for share in SHARES}
    for gpu in next(iter(table.values())):
        best = min(SHARES, key=lambda share: abs(table[share][gpu]))
        count = len(errors(best)[gpu])
        print(f"{gpu}: {best:.2f} ({count} rows, median error {100 * table[best][gpu]:+.1f} %)")
        print("   " + "  ".join(f"{share:.2f} {100 * table[share][gpu]:+.1f} %" for share in SHARES))


if __name__ == "__main__":
    main()
