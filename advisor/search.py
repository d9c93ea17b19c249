"""The search: price the candidates of every approach and choose. What fits decides before what is preferred."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ftadvise.advisor.candidates import base_settings, candidates, defaults, leanest
from ftadvise.advisor.facts import Facts, facts_from, headroom
from ftadvise.advisor.plan_types import Approach, PlanRequest
from ftadvise.advisor.rule_engine import Match, allowed, matching, scores
from ftadvise.advisor.rule_schema import APPROACHES, Rule
from ftadvise.advisor.texts import Text, message
from ftadvise.estimator.estimate_types import Estimate
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import FtadviseError
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.model_spec import ModelSpec

Price = Callable[[Recipe], Estimate]
_APPROACH_FIELDS = ("method", "quantization", "double_quantization", "adapter_dtype")
"""Flags that decide the approach: the facts are about the situation before that choice."""
STANDARD: tuple[Approach, ...] = ("lora", "qlora")
"""What the documents choose between. The others are taken when a rule scores them higher, or when nothing else is left."""


@dataclass(frozen=True, slots=True)
class Considered:
    """One approach, searched: its best recipe that fits (None: none does), its leanest recipe, its score and the rules that set it up.

    `settled` are the matches of the rules that depend on the approach or its rank.
    """

    approach: Approach
    score: int
    best: Estimate | None
    leanest: Estimate
    settled: tuple[Match, ...]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Everything that was found at one sequence length.

    `impossible` says why an approach that the flags allow cannot run here at all; `reference` holds the leanest recipes that the facts
    speak of, also of approaches that the flags exclude.
    """

    facts: Facts
    matches: tuple[Match, ...]
    considered: tuple[Considered, ...]
    impossible: Mapping[Approach, Text]
    reference: Mapping[Approach, Estimate]

    @property
    def chosen(self) -> Considered | None:
        """The approach to recommend, or None when nothing fits."""
        fitting = [each for each in self.considered if each.best is not None]
        return max(fitting, key=approach_rank, default=None)

    def of(self, approach: Approach) -> Considered | None:
        """What was found for one approach."""
        return next((each for each in self.considered if each.approach == approach), None)


def approach_rank(considered: Considered) -> tuple[float, ...]:
    """What is compared between approaches: rule score, then LoRA and QLoRA before the rest, then `recipe_rank`, then LoRA first."""
    assert considered.best is not None  # noqa: S101 - only approaches that fit are compared
    standard = considered.approach in STANDARD
    return (considered.score, standard, *recipe_rank(considered.best), -APPROACHES.index(considered.approach))


def recipe_rank(estimate: Estimate) -> tuple[float, ...]:
    """What is compared between recipes of one approach: comfortable before tight, then tokens/s, then the memory left free."""
    return (estimate.memory.verdict == "fits", comparable_speed(estimate), headroom(estimate))


def comparable_speed(estimate: Estimate | None) -> float:
    """Tokens/s to two significant digits, because finer differences are smaller than the estimate's own error; 0 when not known.

    By sequences of full length, so that batches that the data pads differently compare by the examples that they get through.
    """
    if estimate is None or estimate.throughput is None:
        return 0.0
    return float(f"{estimate.recipe.sequences_per_step * estimate.recipe.seq_len / estimate.throughput.seconds_per_step:.1e}")


def search(
    model: ModelSpec,
    hardware: Hardware,
    request: PlanRequest,
    price: Price,
    rules: tuple[Rule, ...],
    approaches: tuple[Approach, ...],
    impossible: Mapping[Approach, Text],
    seq_len: int,
) -> SearchResult:
    """Price every candidate of every approach at one sequence length.

    Raises:
        FtadviseError: none of the approaches can be priced (the first one's error).
    """
    fixed = request.fixed
    situation = {name: value for name, value in fixed.items() if name not in _APPROACH_FIELDS}
    not_possible = dict(impossible)
    reference: dict[Approach, Estimate] = {}
    errors: dict[Approach, FtadviseError] = {}
    for approach in APPROACHES:
        if approach not in not_possible:
            recipe = leanest(base_settings(approach, hardware, seq_len, situation), hardware, situation)
            try:
                reference[approach] = price(recipe)
            except FtadviseError as error:
                errors[approach] = error
                not_possible[approach] = message("not_priced", why=str(error))
    if errors and not reference:
        raise next(iter(errors.values()))
    facts = facts_from(model, hardware, request, reference, defaults()["gpu_tiers"])
    matches = matching(rules, facts, stage=0)
    score, permitted = scores(matches), allowed(matches)
    considered = []
    for approach in approaches:
        if approach in not_possible:
            continue
        if approach not in permitted:
            not_possible[approach] = message("ruled_out")
            continue
        settings = base_settings(approach, hardware, seq_len, fixed)
        lean = price(leanest(settings, hardware, fixed))
        settings.apply(matches, approach)
        of_approach = matching(rules, dataclasses.replace(facts, approach=approach), stage=1)
        settings.apply(of_approach, approach)
        of_rank = matching(rules, dataclasses.replace(facts, approach=approach, rank=settings.values["rank"]), stage=2)
        settings.apply(of_rank, approach)
        ladders = candidates(settings, hardware, fixed) if lean.memory.fits else ()
        fitting = [estimate for ladder in ladders for estimate in itertools.takewhile(_fits, map(price, ladder))]
        best = max(fitting, key=recipe_rank, default=None)
        # On a CPU the documents' preferences, which are about GPUs, do not count.
        considered.append(Considered(approach, score[approach] if hardware.gpu else 0, best, lean, of_approach + of_rank))
    asked = {approach: why for approach, why in not_possible.items() if approach in approaches}
    return SearchResult(facts, matches, tuple(considered), asked, reference)


def _fits(estimate: Estimate) -> bool:
    return estimate.memory.fits


def longest_that_fits(estimate: Estimate, price: Price, fixed: Mapping[str, Any]) -> Estimate | None:
    """The recipe with its sequence length doubled as often as it fits, as lean as the user's flags allow; None when no doubling fits."""
    longest = None
    changes: dict[str, Any] = {
        "micro_batch": 1,
        "gradient_checkpointing": True,
        "gradient_accumulation": estimate.recipe.sequences_per_step,
    }
    lean = estimate.recipe.replace(**{name: value for name, value in changes.items() if name not in fixed})
    max_position = estimate.model.max_position or 0
    for n in itertools.count(1):
        seq_len = lean.seq_len << n
        if seq_len > max_position:
            return longest
        longer = price(lean.replace(seq_len=seq_len))
        if longer.memory.verdict != "fits":
            return longest
        longest = longer
    return longest
