"""What a device shows beyond the allocated tensors, as a share of what comes and goes in a step: the `reserve` of estimator/allocator.yaml.

For every published run with known settings and an nvidia-smi figure: (device used - predicted allocated - CUDA context) / (the largest
activations + loss of any phase). Runs whose loss makes all logits at once are a group of their own: blocks of gigabytes come and go there,
and the allocator cannot use them for anything smaller without breaking them up.
Sharded runs, which gather layers, are another group. `check` derives the 5 % and 95 % quantiles from one half of
the software versions and counts how often they hold for the other.

Run: python -m benchmarks.reserve_share
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.accuracy import predict, rows
from benchmarks.accuracy.case import Case
from benchmarks.accuracy.interval import quantiles
from ftadvise.estimator.device_memory import communicator_bytes, context_bytes
from ftadvise.estimator.memory import price_memory, reserve_kind

SMALLEST_DYNAMIC_BYTES = 1 << 30


def shares() -> dict[str, list[tuple[str, float]]]:
    """By kind of loss ("logits" or "chunks"), sharded runs apart: (row id, share)."""
    found: dict[str, list[tuple[str, float]]] = {"logits": [], "chunks": [], "kept": [], "sharded": []}
    for case in [*rows.single_gpu(), *rows.multi_gpu()]:
        if not isinstance(case, Case) or not case.fully_known:
            continue
        used = next((each.peak_bytes for each in case.measured if each.metric == "device_used" and each.named), None)
        if used is None:
            continue
        stack = predict.stack(case)
        hardware = predict.hardware_of(case.gpu if case.n_gpus == 1 else f"{case.n_gpus}x {case.gpu}")
        priced = price_memory(predict.model_of(case.model), hardware, case.recipe, stack)
        dynamic = priced.dynamic_bytes
        if dynamic < SMALLEST_DYNAMIC_BYTES:
            continue
        allocated = max(size for phase, size in priced.phases().items() if phase != "evaluation")
        outside = context_bytes() + (communicator_bytes(case.n_gpus) if case.recipe.sharding != "none" else 0)
        kind = reserve_kind(case.recipe, stack)
        found[kind].append((case.id, (used - allocated - outside) / dynamic))
    return found


def check(values: Sequence[tuple[str, float]]) -> list[tuple[str, int, float]]:
    """(versions, rows, share of them inside the quantiles of the others)."""
    versions = sorted({name.rsplit("-", 1)[0] for name, _ in values})
    result = []
    for version in versions:
        others = [share for name, share in values if name.rsplit("-", 1)[0] != version]
        own = [share for name, share in values if name.rsplit("-", 1)[0] == version]
        if others:
            low, high = quantiles(others)
            result.append((version, len(own), sum(low <= share <= high for share in own) / len(own)))
    return result


def main() -> None:
    """Print the quantiles and the check."""
    for kind, values in shares().items():
        if not values:
            continue
        numbers = [share for _, share in values]
        low, high = quantiles(numbers)
        print(f"{kind}: {len(numbers)} rows, median {statistics.median(numbers):.3f}, 5 % {low:.3f}, 95 % {high:.3f}")
        for version, count, inside in check(values):
            print(f"   {version}: {count} rows, {100 * inside:.0f} % inside the others' quantiles")


if __name__ == "__main__":
    main()
