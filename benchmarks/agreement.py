"""The analytic model against the trace, over random recipes: peaks of each phase and of the whole training.

    python benchmarks/agreement.py [--count N] [--seed S] [--nightly] [--words WORD ...]
    python benchmarks/agreement.py --only N --explain      what is alive at both peaks of draw N

Writes benchmarks/results/agreement.csv. Needs ftadvise[run]; about a second a recipe.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import statistics
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agreement_recipes import ARCHITECTURES, Draw, draw

from ftadvise.estimator.memory import Priced, price_memory
from ftadvise.estimator.stack import stack_of
from ftadvise.estimator.tape.profile import QUANTITIES
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.hardware import Cpu, Hardware
from ftadvise.profiles.model_config import spec_from_config
from ftadvise.profiles.model_spec import ModelSpec
from ftadvise.profiles.resolve_gpu import resolve_gpus

RESULTS = Path(__file__).parent / "results" / "agreement.csv"
CI_COUNT, NIGHTLY_COUNT, SEED = 420, 2000, 3
PHASES = ("forward", "backward", "optimizer_step", "evaluation")
_RAM = 64 << 30
_CPU = Cpu("any", 2, 2, supports_bf16=False, supports_amx=False)


@dataclass(frozen=True)
class Agreement:
    """Bytes that both models say, by phase; "peak" is that of training."""

    draw: Draw
    derived: dict[str, int]
    traced: dict[str, int]
    seconds: float

    def error(self, phase: str = "peak") -> float:
        """Relative error of the analytic model."""
        return self.derived[phase] / self.traced[phase] - 1

    def row(self) -> dict[str, Any]:
        """A line of the CSV."""
        recipe = self.draw.recipe
        row: dict[str, Any] = {"number": self.draw.number, "architecture": self.draw.architecture, "method": recipe.method}
        row |= {"quantization": self.draw.base, "stack": self.draw.stack, "device": self.draw.device}
        row |= {"traced_peak_bytes": self.traced["peak"], "derived_peak_bytes": self.derived["peak"]}
        row |= {f"{phase}_error_percent": f"{100 * self.error(phase):.3f}" for phase in ("peak", *PHASES)}
        return row | {"config": json.dumps(self.draw.config), "recipe": json.dumps(recipe.to_dict())}


def compare(case: Draw, folder: Path) -> Agreement:
    """Price and trace one draw; its config.json is written into `folder`.

    Raises:
        InputError: this recipe cannot be traced.
    """
    spec, hardware, stack = _spec(case, folder), _hardware(case.device), stack_of(case.stack)
    begin = time.perf_counter()
    from ftadvise.estimator.trace import trace

    result = trace(spec, hardware, case.recipe, stack)
    seconds = time.perf_counter() - begin
    priced = price_memory(spec, hardware, case.recipe, stack)
    # managed memory, which torch's allocator does not see, and neither does the trace
    paged = priced.static.optimizer.state_paged_bytes
    derived = {str(phase): size - (paged if phase != "load" else 0) for phase, size in priced.phases().items()}
    derived["peak"] = max(size for phase, size in derived.items() if phase != "evaluation")
    return Agreement(case, derived, {**result.phases, "peak": result.peak_allocated_bytes}, seconds)


def _spec(case: Draw, folder: Path) -> ModelSpec:
    (folder / "config.json").write_text(json.dumps(case.config), encoding="utf-8")
    return spec_from_config(case.config, source=f"{case.architecture} {json.dumps(case.config)}", local_path=str(folder))


def _hardware(device: str) -> Hardware:
    return Hardware(resolve_gpus("A100-80GB") if device == "cuda" else (), _CPU, _RAM, _RAM, "named")


def run(numbers: Iterable[int], seed: int, words: list[str]) -> Iterator[Agreement | tuple[Draw, str]]:
    """Comparisons, or what kept a draw from being traced."""
    with tempfile.TemporaryDirectory() as name:
        for number in numbers:
            case = draw(number, seed)
            text = f"{case.architecture} {case.recipe.method} {case.base} {case.stack} {case.device}"
            if not all(word in text for word in words):
                continue
            try:
                yield compare(case, Path(name))
            except InputError as error:
                yield case, str(error)
            except Exception:  # noqa: BLE001 - one that fails must not hide the others
                yield case, traceback.format_exc(limit=-4)


def report(found: list[Agreement]) -> None:
    """Tables of errors by what was drawn, and the worst."""
    groups: dict[str, Any] = {
        "architecture": lambda each: each.draw.architecture,
        "method": lambda each: each.draw.recipe.method,
        "quantisation": lambda each: each.draw.base,
        "stack": lambda each: each.draw.stack,
        "device": lambda each: each.draw.device,
        "dtype": lambda each: each.draw.recipe.compute_dtype,
        "attention": lambda each: each.draw.recipe.attention,
        "checkpointing": lambda each: str(each.draw.recipe.gradient_checkpointing),
    }
    for title, key in groups.items():
        by_value = defaultdict(list)
        for each in found:
            by_value[key(each)].append(abs(each.error()))
        print(f"\n{title:44} {'count':>6} {'median %':>9} {'worst %':>9} {'> 2 %':>6}")
        for value, errors in sorted(by_value.items()):
            beyond = sum(error > 0.02 for error in errors)
            print(f"{value:44} {len(errors):6} {100 * statistics.median(errors):9.3f} {100 * max(errors):9.2f} {beyond:6}")
    for phase in ("peak", *PHASES):
        errors = [abs(each.error(phase)) for each in found]
        beyond = sum(error > 0.02 for error in errors)
        print(
            f"\nall, {phase}: {len(errors)} recipes, median {100 * statistics.median(errors):.3f} %, worst {100 * max(errors):.2f} %",
            end="",
        )
        print(f", {beyond} beyond 2 %", end="")
    print(f"\n\n{sum(each.seconds for each in found) / len(found):.2f} s per trace. The worst:")
    for each in sorted(found, key=lambda each: -abs(each.error()))[:40]:
        if abs(each.error()) > 0.005:
            print(describe(each))


def describe(each: Agreement) -> str:
    """One line."""
    case, recipe = each.draw, each.draw.recipe
    errors = " ".join(f"{phase[:4]} {100 * each.error(phase):+.2f}" for phase in PHASES)
    flags = [name for name, on in (("ckpt", recipe.gradient_checkpointing), ("packed", recipe.packing), ("drop", recipe.dropout > 0)) if on]
    return (
        f"--only {case.number:<4} {100 * each.error():+7.2f} %  ({errors})  {case.architecture} {recipe.method} {case.base} {case.stack} "
        f"{case.device} {recipe.compute_dtype}/{recipe.adapter_dtype} {recipe.attention} {recipe.loss} r{recipe.rank} "
        f"{recipe.micro_batch}x{recipe.seq_len}x{recipe.gradient_accumulation} {recipe.optimizer} {' '.join(flags)} "
        f"{','.join(recipe.target_modules)}"
    )


def explain(case: Draw, phase: str | None) -> None:
    """What is alive at both peaks: sizes that differ in number, and the components."""
    from ftadvise.estimator.trace import trace

    with tempfile.TemporaryDirectory() as name:
        spec, hardware, stack = _spec(case, Path(name)), _hardware(case.device), stack_of(case.stack)
        result = trace(spec, hardware, case.recipe, stack)
        priced = price_memory(spec, hardware, case.recipe, stack)
    phase = phase or result.peak_phase
    timeline = result.timeline
    index = max((i for i, each in enumerate(timeline.phases) if each == phase), key=list(timeline.allocated()).__getitem__)
    print(json.dumps(case.config))
    print("phases traced ", result.phases)
    print("phases derived", priced.phases())
    print(f"peak of {phase}: traced at {timeline.operations[index]} in {timeline.modules[index]}")
    print("traced ", timeline.components_at(index))
    print("derived", priced.components(phase))  # type: ignore[arg-type]
    real, derived = _alive_in_trace(timeline, index), _alive_on_tape(priced, phase)
    for size in sorted({*real, *derived}, key=lambda size: -size * max(sum(real[size].values()), sum(derived[size].values()))):
        counts = sum(real[size].values()), sum(derived[size].values())
        if size * max(counts) < 0.001 * result.peak_allocated_bytes:
            continue
        if counts[0] == counts[1]:
            print(f"   {size:>12} B   {counts[0]} each")
        else:
            print(f"** {size:>12} B   traced {counts[0]}, derived {counts[1]}")
            print("      traced ", dict(real[size]))
            print("      derived", dict(derived[size]))


_STATIC = ("weights", "quantization_constants", "adapters", "optimizer_state")


def _alive_in_trace(timeline: Any, index: int) -> dict[int, Counter[str]]:
    alive: dict[int, int] = {}
    for i in range(index + 1):
        if timeline.sizes[i] > 0:
            alive[timeline.storages[i]] = i
        else:
            alive.pop(timeline.storages[i], None)
    found: dict[int, Counter[str]] = defaultdict(Counter)
    for i in alive.values():
        if timeline.labels[i] not in _STATIC:
            where = f" in {timeline.modules[i]}" if timeline.phases[i] == timeline.phases[index] else " (before)"
            found[timeline.sizes[i]][timeline.operations[i] + where] += 1
    return found


def _alive_on_tape(priced: Priced, phase: str) -> dict[int, Counter[str]]:
    found: dict[int, Counter[str]] = defaultdict(Counter)
    if phase not in priced.peaks:
        return found
    source, values = priced._source(phase)  # type: ignore[arg-type]
    moment = priced.peaks[phase][1]  # type: ignore[index]
    print(f"derived at {priced.peak_operation(phase)}")  # type: ignore[arg-type]
    for (rows, size, info), weight in zip(source.events, source._weights(moment), strict=False):
        found[abs(size) * values[QUANTITIES.index(rows)]][f"{info.operation} in {info.module}"] += weight if size > 0 else -weight
    return defaultdict(Counter, {size: +counts for size, counts in found.items() if size})


def main() -> int:
    """Compare and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=CI_COUNT)
    parser.add_argument("--nightly", action="store_true", help=f"{NIGHTLY_COUNT} recipes")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of draws")
    parser.add_argument(
        "--words", nargs="*", default=[], help="only draws with all of these words (architecture, method, base, stack, device)"
    )
    parser.add_argument("--explain", action="store_true", help="with --only: list what is alive at both peaks")
    parser.add_argument("--phase", help="with --explain: the peak of this phase")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # what the libraries would tell a user about his choices
    if options.explain:
        for number in options.only or []:
            print(f"\n{number}: {draw(number, options.seed)}")
            explain(draw(number, options.seed), options.phase)
        return 0
    found, refused = [], []
    numbers = options.only or range(NIGHTLY_COUNT if options.nightly else options.count)
    for each in run(numbers, options.seed, options.words):
        if isinstance(each, Agreement):
            found.append(each)
            if options.only or abs(each.error()) > 0.02:
                print(describe(each), flush=True)
        else:
            refused.append(each)
            print(f"--only {each[0].number} {each[0].architecture} {each[0].recipe.method} {each[0].base}: {each[1]}", flush=True)
    if found:
        report(found)
    if not options.only and not options.words and found:
        with RESULTS.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(found[0].row()), lineterminator="\n")
            writer.writeheader()
            writer.writerows(each.row() for each in found)
    met = len({each.draw.architecture for each in found})
    print(f"{len(found)} compared over {met} of {len(ARCHITECTURES)} architectures, {len(refused)} could not be traced")
    return 1 if any(abs(each.error()) > 0.02 for each in found) or refused else 0


if __name__ == "__main__":
    sys.exit(main())
