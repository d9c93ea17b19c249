"""The plan against exhaustive search: every recipe of the grid priced, on a sample of scenarios.

    python benchmarks/exhaustive.py [SCENARIOS]

The search leaves out what cannot win; this prices all of it and asks for the best by the same order (docs/advice.md): limits, the upper
end fits, rule score, LoRA and QLoRA first, little given up, speed. What the plan loses, in rule score or in tokens/s, is its error.
"""

from __future__ import annotations

import itertools
import random
import sys
from dataclasses import dataclass
from typing import Any

from ftadvise.advisor.candidates import Layout, base_settings, candidates, concessions, possible_approaches
from ftadvise.advisor.facts import of_approach
from ftadvise.advisor.plan_types import PlanRequest
from ftadvise.advisor.planner import find
from ftadvise.advisor.rule_engine import matching
from ftadvise.advisor.rule_set import load_rules
from ftadvise.advisor.search import Considered, Prices, SearchResult, approach_rank, recipe_rank
from ftadvise.estimator.estimate import estimate
from ftadvise.estimator.estimate_types import Estimate
from ftadvise.profiles.errors import FtadviseError
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.model_spec import ModelSpec
from ftadvise.profiles.probe import named_hardware
from ftadvise.profiles.resolve_model import resolve_model

MODELS = ("SmolLM2-135M-Instruct", "Qwen2.5-1.5B", "Llama-3.2-3B", "Qwen-7B", "Llama-3.1-8B", "Baichuan2-13B-Base", "Llama-2-70b-hf")
GPUS = (
    "T4", "RTX 3060 12GB", "RTX 2080 Ti", "RTX 3090", "RTX 4090", "L40S", "A100-80GB", "H100", "2x RTX 4090", "4x RTX 4090", "8x A100-80GB",
)  # fmt: skip
TASKS = (None, "research", "chat", "edge")
TEAMS = (None, "beginner", "experienced")
WHOLE, DIVIDED = ("none",), ("ddp", "zero1", "zero2", "zero3", "fsdp")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One scenario: the recipes priced by the plan's search and by the exhaustive one, and what the plan loses."""

    scenario: str
    searched: int
    exhaustive: int
    lost_score: int
    lost_speed: float


def scenarios(count: int) -> list[tuple[str, str, dict[str, Any]]]:
    """A fixed sample of (model, GPUs, request)."""
    everything = [(model, gpus, {"task": task, "team": team}) for model, gpus, task, team in itertools.product(MODELS, GPUS, TASKS, TEAMS)]
    return random.Random(5).sample(everything, min(count, len(everything)))  # noqa: S311 - a sample, no secret


def compare(model_name: str, gpus: str, request: PlanRequest) -> Outcome | None:
    """The plan's choice against the best of the grid at the same sequence length; None where nothing fits."""
    model, hardware = resolve_model(model_name), named_hardware(gpus)
    priced = [0]

    def price(recipe: Any) -> Estimate:
        priced[0] += 1
        return estimate(model, hardware, recipe, detail=False)

    result, rung, _ = find(model, hardware, request, Prices(price), load_rules())
    searched, chosen = priced[0], result.chosen
    if chosen is None or chosen.best is None:
        return None
    every = Prices(price)
    best = max(everything(model, hardware, request, result, every, rung.seq_len, offload=rung.offload), key=approach_rank)
    assert best.best is not None  # noqa: S101 - `everything` keeps only what fits
    known = _speed(best.best) if chosen.score == best.score else 0.0
    lost = 1 - _speed(chosen.best) / known if known else 0.0
    name = f"{model_name} on {gpus}, {request.task or '-'}, {request.team or '-'}"
    return Outcome(name, searched, priced[0] - searched, best.score - chosen.score, lost)


def everything(
    model: ModelSpec, hardware: Hardware, request: PlanRequest, result: SearchResult, price: Prices, seq_len: int, *, offload: bool
) -> list[Considered]:
    """Every approach with every step of concessions and the best of all its layouts, checkpointing and micro batches."""
    found = []
    rules, (approaches, impossible) = load_rules(), possible_approaches(hardware, request.fixed)
    for approach in approaches:
        if approach in impossible or approach in result.impossible:
            continue
        settings = base_settings(approach, hardware, seq_len, request.fixed)
        settings.apply(result.matches, approach)
        about = of_approach(result.facts, approach)
        settings.apply(matching(rules, about, stage=1), approach)
        about = of_approach(result.facts, approach, rank=settings.values["rank"])
        settings.apply(matching(rules, about, stage=2), approach)
        known = result.of(approach)
        assert known is not None  # noqa: S101 - it is neither impossible nor ruled out
        for changes in concessions(settings, hardware):
            fitting: list[Estimate] = []
            for sharding in WHOLE if len(hardware.gpus) == 1 else DIVIDED:
                for kept in ("none", "optimizer", "all") if offload else ("none",):
                    for ladder in candidates(settings, hardware, layout=Layout(sharding, kept), changes=changes):  # type: ignore[arg-type]
                        for recipe in ladder:
                            try:
                                priced = price(recipe)
                            except FtadviseError:  # no such layout
                                continue
                            if priced.memory.fits and not ("optimizer" in changes and sharding not in ("none", "ddp")):
                                fitting.append(priced)
            if fitting:
                best = max(fitting, key=recipe_rank)
                found.append(Considered(approach, known.score, best, best, (), True, changes))
    return found


def _speed(found: Estimate) -> float:
    """Tokens/s by sequences of full length; 0 where the time is not priced (offload)."""
    recipe, speed = found.recipe, found.throughput
    if speed is None:
        return 0.0
    return recipe.sequences_per_step * recipe.seq_len * (len(found.hardware.gpus) or 1) / speed.seconds_per_step


def main() -> None:
    """Print each scenario and the worst."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    outcomes = []
    for model, gpus, request in scenarios(count):
        outcome = compare(model, gpus, PlanRequest(**request))
        if outcome is None:
            continue
        outcomes.append(outcome)
        flag = " <--" if outcome.lost_score or outcome.lost_speed > 0.03 else ""
        print(f"{outcome.scenario:62} {outcome.searched:4} of {outcome.exhaustive:4} priced, loses {outcome.lost_score} points, "
              f"{100 * outcome.lost_speed:5.2f} %{flag}", flush=True)  # fmt: skip
    worst = max(outcome.lost_speed for outcome in outcomes)
    print(f"{len(outcomes)} scenarios: at most {max(o.lost_score for o in outcomes)} points and {100 * worst:.2f} % of throughput lost; "
          f"{sum(o.searched for o in outcomes)} of {sum(o.exhaustive for o in outcomes)} recipes priced")  # fmt: skip


if __name__ == "__main__":
    main()
