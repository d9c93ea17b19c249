"""Pairs of runs that differ in one setting: is the effect of that setting predicted, in sign and in size?"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from benchmarks.accuracy.case import Case
from benchmarks.accuracy.published import read
from benchmarks.accuracy.rows import single_gpu
from benchmarks.accuracy.throughput.predict import predicted
from benchmarks.accuracy.throughput.run import Run
from benchmarks.accuracy.throughput.score import Scored
from ftadvise.profiles.yaml_store import load_yaml

Effect = Literal["quantization", "checkpointing", "method"]
EFFECTS: tuple[Effect, ...] = get_args(Effect)
CLEAR = 0.10
"""An effect of more than this share has a sign that must be right; a smaller one counts as the same speed."""
_FREE: dict[Effect, dict[str, Any]] = {
    "quantization": {"quantization": "none", "double_quantization": False, "optimizer": "adamw_torch"},
    "checkpointing": {"gradient_checkpointing": True},
    "method": {
        "method": "lora", "rank": 1, "alpha": 1, "dropout": 0.0, "target_modules": ("all-linear",), "adapter_dtype": "fp32",
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pair:
    """Speed of the second run over that of the first, measured and predicted. `documented`: named in pairs.yaml."""

    effect: Effect
    first: Run
    second: Run
    measured: float
    predicted: float
    documented: bool = False
    also: str = ""

    @property
    def clear(self) -> bool:
        """Whether the measured effect is more than noise."""
        return abs(self.measured - 1) > CLEAR

    @property
    def right(self) -> bool:
        """A clear effect: the sign agrees. No clear effect: none is predicted either, but for half as much again."""
        if self.clear:
            return (self.measured > 1) == (self.predicted > 1)
        return abs(self.predicted - 1) <= 1.5 * CLEAR


def found_pairs(scored: Sequence[Scored]) -> list[Pair]:
    """Every two runs of a source that differ in one effect only. Approximated runs are left out."""
    pairs = []
    for effect in EFFECTS:
        groups: dict[object, list[Scored]] = {}
        for each in scored:
            if not each.run.approximated:
                groups.setdefault(_key(effect, each.run), []).append(each)
        for group in groups.values():
            for one, other in itertools.permutations(group, 2):
                if _order(effect, one.run) < _order(effect, other.run):
                    pairs.append(
                        Pair(
                            effect,
                            one.run,
                            other.run,
                            one.run.seconds / other.run.seconds,
                            one.prediction.seconds / other.prediction.seconds,
                        )
                    )
    return pairs


def documented_pairs(runs: Sequence[Run], *, others: bool = True) -> list[Pair]:
    """The pairs of pairs.yaml whose runs are among `runs` or, with `others`, only in the memory table."""
    known = {run.case.id: run for run in runs}
    entries: list[dict[str, Any]] = load_yaml(Path(__file__).with_name("pairs.yaml"))
    if others:
        known |= _other_runs({each[side]: each["seq_len"] for each in entries for side in ("first", "second") if "seq_len" in each})
    pairs = []
    for each in entries:
        if each["first"] in known and each["second"] in known:
            first, second = known[each["first"]], known[each["second"]]
            ratio = predicted(first).seconds / predicted(second).seconds
            pairs.append(Pair(each["effect"], first, second, first.seconds / second.seconds, ratio, True, each.get("also", "")))
    return pairs


def _other_runs(lengths: Mapping[str, int]) -> dict[str, Run]:
    """Runs at these mean lengths of which only samples per second or the minutes of so many epochs are known.

    Their settings come from the memory table. Minutes stand for a step: the two of a pair took as many of them.
    """
    samples = {row["id"]: json.loads(row["throughput"])["value"] for row in read("memory_measurements.csv") if row["throughput"]}
    minutes = {row["id"]: float(row["runtime_min"]) for row in read("throughput_measurements.csv") if row["runtime_min"]}
    found = {}
    for case in single_gpu():
        if not isinstance(case, Case) or case.id not in lengths:
            continue
        case = dataclasses.replace(case, recipe=case.recipe.replace(seq_len=lengths[case.id]))
        if case.id in minutes:
            found[case.id] = Run(case, 60 * minutes[case.id], f"{minutes[case.id]} minutes")
        else:
            found[case.id] = Run(case, case.recipe.sequences_per_step / samples[case.id], f"{samples[case.id]} samples/s")
    return found


def _order(effect: Effect, run: Run) -> int:
    """0 for the first of a pair, 1 for the second."""
    recipe = run.case.recipe
    if effect == "quantization":
        return int(recipe.quantization != "none")
    return int(recipe.gradient_checkpointing) if effect == "checkpointing" else int(recipe.method != "full")


def _key(effect: Effect, run: Run) -> object:
    """What two runs must share. The stack is not in it: a 4-bit base has preparations of its own; `alike` holds the rest."""
    case = run.case
    if effect == "method" and (case.recipe.method not in ("lora", "full") or case.recipe.quantization != "none"):
        return case.id
    return case.source, case.model, case.gpu, case.n_gpus, run.alike, run.lengths, case.recipe.replace(**_FREE[effect])
