"""The advice over a matrix of situations: does what it recommends fit, and does nothing it must do go unheeded?

    python benchmarks/scenarios.py [--trace N] [--seed S] [--only TEXT]

For every situation of scenarios.yaml: the plan's upper estimate stays within the memory that is there, or the plan says that it is tight;
no reason marked *must* is violated; where nothing fits, the plan says what would change that. `--trace N` draws N situations
and traces their recipes on the meta device (needs ftadvise[run]): the peak of the real model code must fit too. Writes
benchmarks/results/scenarios.csv; exit code 1 on a miss.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import yaml

import ftadvise
from ftadvise.advisor.plan_types import NoPlanError, Plan, PlanRequest
from ftadvise.estimator.traced_estimate import traced_estimate
from ftadvise.profiles.errors import FtadviseError, InputError

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results" / "scenarios.csv"


@dataclass(frozen=True, slots=True)
class Situation:
    """Who asks for what."""

    model: str
    gpu: str
    task: str | None
    team: str

    @property
    def words(self) -> str:
        """In a line."""
        return f"{self.model} on {self.gpu}, {self.task or 'no task'}, {self.team}"

    def plan(self) -> Plan:
        """What ftadvise recommends."""
        return ftadvise.plan(self.model, gpu=self.gpu, request=PlanRequest(task=self.task, team=self.team))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was recommended, and what is wrong with it."""

    situation: Situation
    recipe: str
    used_bytes: int
    high_bytes: int
    available_bytes: int
    tokens_per_second: float
    problems: tuple[str, ...]


def situations() -> list[Situation]:
    """Every combination of the file."""
    matrix = yaml.safe_load((FOLDER / "scenarios.yaml").read_text(encoding="utf-8"))
    combined = itertools.product(matrix["models"], matrix["gpus"], matrix["tasks"], matrix["teams"])
    return [Situation(*each) for each in combined]


def judge(situation: Situation) -> Outcome:
    """Plan it and look at the plan."""
    try:
        plan = situation.plan()
    except NoPlanError as error:
        silent = "nothing fits, and nothing is said to change that"
        return Outcome(situation, "nothing fits", 0, 0, 0, 0.0, () if error.changes else (silent,))
    except InputError as error:
        return Outcome(situation, "refused", 0, 0, 0, 0.0, (str(error),))
    memory, speed = plan.estimate.memory, plan.estimate.throughput
    problems: list[str] = []
    said = memory.verdict == "tight" and any(each.rule == "planner.fits_tightly" for each in plan.reasons)
    if memory.high_bytes > memory.available_bytes and not said:
        problems.append(f"upper end {memory.high_bytes} above {memory.available_bytes}")
    problems += [f"must {each.rule} is {each.outcome}" for each in plan.reasons if each.group == "must" and each.outcome in _UNHEEDED]
    rate = speed.tokens_per_second if speed else 0.0
    return Outcome(situation, plan.recipe.label, memory.device_used_bytes, memory.high_bytes, memory.available_bytes, rate, tuple(problems))


_UNHEEDED = ("overridden", "outweighed")


def traced_problem(situation: Situation) -> str | None:
    """Whether the real model code, on the meta device, needs more than there is. Remote code cannot be traced: None."""
    plan = situation.plan()
    estimate = plan.estimate
    try:
        traced = traced_estimate(estimate.model, estimate.hardware, plan.recipe, estimate.stack)
    except FtadviseError as error:
        print(f"  not traced: {situation.words}: {error}", file=sys.stderr)
        return None
    used, available = traced.memory.peak_allocated_bytes, estimate.memory.available_bytes
    derived = estimate.memory.peak_allocated_bytes
    print(f"  {situation.words}: traced {used / 2**30:.2f} GiB, derived {derived / 2**30:.2f}", file=sys.stderr)
    return f"traced peak {used} above {available}" if used > available else None


def main() -> int:
    """Judge the matrix, trace a sample."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=int, default=0, metavar="N", help="situations to trace")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only situations whose words contain this")
    options = parser.parse_args()
    began = time.perf_counter()
    every = [each for each in situations() if options.only.lower() in each.words.lower()]
    outcomes = [judge(each) for each in every]
    seconds = time.perf_counter() - began
    problems = [f"{each.situation.words}: {problem}" for each in outcomes for problem in each.problems]
    if not options.only:
        _write(outcomes)
    fitting = [each.situation for each in outcomes if each.recipe not in ("nothing fits", "refused")]
    for situation in random.Random(options.seed).sample(fitting, min(options.trace, len(fitting))):  # noqa: S311 - a sample
        problem = traced_problem(situation)
        if problem:
            problems.append(f"{situation.words}: {problem}")
    counts = Counter(each.recipe.split()[0] for each in outcomes)
    tight = sum(each.high_bytes > each.available_bytes for each in outcomes)
    each_ms = 1000 * seconds / max(1, len(outcomes))
    print(f"{len(outcomes)} situations in {seconds:.0f} s ({each_ms:.0f} ms each): {dict(counts)}; {tight} tight")
    print("\n".join(problems) or "no problem")
    return 1 if problems else 0


def _write(outcomes: list[Outcome]) -> None:
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        figures_of = ["device_used_bytes", "high_bytes", "available_bytes", "tokens_per_second"]
        writer.writerow(["model", "gpu", "task", "team", "recipe", *figures_of])
        for each in outcomes:
            asked = each.situation
            figures = [each.used_bytes, each.high_bytes, each.available_bytes, round(each.tokens_per_second)]
            writer.writerow([asked.model, asked.gpu, asked.task or "", asked.team, each.recipe, *figures])


if __name__ == "__main__":
    sys.exit(main())
