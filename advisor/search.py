"""The search: price the recipes of every approach and choose. What fits decides before what is preferred.

The grid has thousands of recipes: approach x layout over the GPUs x concessions x checkpointing x micro batch. Few of them are priced,
because larger micro batches only need more memory, and because a divided model is never faster than the whole model on each GPU: what
cannot fit or cannot win is never looked at. `benchmarks/exhaustive.py` prices the whole grid and compares. docs/advice.md has the order.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ftadvise.advisor.candidates import (
    Layout,
    base_settings,
    candidates,
    concessions,
    defaults,
    layouts,
    leanest,
)
from ftadvise.advisor.facts import Facts, facts_from, headroom, of_approach, of_recipe
from ftadvise.advisor.limits import within_limits
from ftadvise.advisor.plan_types import Approach, PlanRequest
from ftadvise.advisor.rule_engine import Match, Settings, allowed, matching, scores
from ftadvise.advisor.rule_schema import APPROACHES, Rule
from ftadvise.advisor.texts import Text, message
from ftadvise.estimator.estimate_types import Estimate
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import FtadviseError
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.model_spec import ModelSpec

Price = Callable[[Recipe], Estimate]
"""The estimate of a recipe for one model on one machine."""
_APPROACH_FIELDS = ("method", "quantization", "double_quantization", "adapter_dtype")
"""Flags that decide the approach: the facts are about the situation before that choice."""
STANDARD: tuple[Approach, ...] = ("lora", "qlora")
"""What the documents choose between. The others are taken when a rule scores them higher, or when nothing else is left."""
_SAME_SPEED = 1.03
"""Speeds within 3 % count as equal: the estimate's own error is larger."""
_WHOLE = ("none", "ddp")
"""Layouts in which bitsandbytes' optimizers run: DeepSpeed has not tested them, and FSDP divides what they keep in blocks."""
_LAYOUTS = ("none", "ddp", "zero1", "zero2", "zero3", "fsdp")


class Prices:
    """A price that is asked for each recipe once; `memory` asks for the memory alone, which takes half the time."""

    def __init__(self, price: Price, memory: Price | None = None) -> None:
        self._price, self._memory = price, memory
        self._known: dict[Recipe, Estimate] = {}
        self._memory_known: dict[Recipe, Estimate] = {}

    def __call__(self, recipe: Recipe) -> Estimate:
        """The whole estimate."""
        found = self._known.get(recipe)
        if found is None:
            found = self._known[recipe] = self._price(recipe)
        return found

    def memory(self, recipe: Recipe) -> Estimate:
        """An estimate whose throughput may be None."""
        if self._memory is None:
            return self(recipe)
        found = self._known.get(recipe) or self._memory_known.get(recipe)
        if found is None:
            found = self._memory_known[recipe] = self._memory(recipe)
        return found

    def adding(self, finish: Callable[[Estimate], Estimate]) -> Prices:
        """The same prices with something added to each."""
        return Prices(lambda recipe: finish(self(recipe)), self.memory)


@dataclass(frozen=True, slots=True)
class Considered:
    """One approach, searched: its best recipe that fits (None: none does), its leanest recipe, its score and the rules that set it up.

    `settled` are the matches of the rules that depend on the approach, its rank or its recipe; `within_limits` says whether the best recipe
    keeps --max-hours and --budget; `conceded` are the fields that were changed so that it fits; `wish` is the leanest recipe of those that
    give up nothing.
    """

    approach: Approach
    score: int
    best: Estimate | None
    leanest: Estimate
    settled: tuple[Match, ...]
    within_limits: bool = True
    conceded: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    wish: Estimate | None = None

    @property
    def comfortable(self) -> bool:
        """Whether the upper end of the best recipe's memory fits."""
        return self.best is not None and _comfortable(self.best)


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
    """What is compared between approaches: `preference`, then speed, simplicity and room of the recipes, LoRA first."""
    assert considered.best is not None  # noqa: S101 - only approaches that fit are compared
    return (*preference(considered), *recipe_rank(considered.best)[1:], -APPROACHES.index(considered.approach))


def preference(considered: Considered) -> tuple[float, ...]:
    """What comes before speed: limits kept, the upper end fits, rule score, LoRA and QLoRA before the rest, little given up."""
    standard = considered.approach in STANDARD
    return (considered.within_limits, considered.comfortable, considered.score, standard, -len(considered.conceded))


def recipe_rank(estimate: Estimate) -> tuple[float, ...]:
    """What is compared between recipes of one approach: comfortable before tight, speed, the simpler layout, then the memory left free."""
    return (_comfortable(estimate), comparable_speed(estimate), -_LAYOUTS.index(estimate.recipe.sharding), headroom(estimate))


def comparable_speed(estimate: Estimate | None) -> int:
    """Speed in steps of 3 %, because finer differences are smaller than the estimate's own error; 0 when not known.

    By sequences of full length, so that batches that the data pads differently compare by the examples that they get through.
    """
    if estimate is None or estimate.throughput is None:
        return 0
    recipe, seconds = estimate.recipe, estimate.throughput.seconds_per_step
    gpus = 1 if recipe.sharding == "none" else max(1, len(estimate.hardware.gpus))
    tokens = recipe.sequences_per_step * gpus * recipe.seq_len
    return math.floor(math.log(1e6 * tokens / seconds) / math.log(_SAME_SPEED))


def search(
    model: ModelSpec,
    hardware: Hardware,
    request: PlanRequest,
    price: Prices,
    rules: tuple[Rule, ...],
    approaches: tuple[Approach, ...],
    impossible: Mapping[Approach, Text],
    seq_len: int,
    *,
    offload: bool = False,
    only_best: bool = False,
) -> SearchResult:
    """The best recipe of every approach at one sequence length; with `offload`, of the layouts that use host memory.

    With `only_best`, approaches that cannot be chosen any more are left out.

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
            recipe = leanest(base_settings(approach, hardware, seq_len, situation), hardware)
            try:
                reference[approach] = price.memory(recipe)
            except FtadviseError as error:
                errors[approach] = error
                not_possible[approach] = message("not_priced", why=str(error))
    if errors and not reference:
        raise next(iter(errors.values()))
    facts = facts_from(model, hardware, request, reference, defaults()["gpu_tiers"])
    matches = matching(rules, facts, stage=0)
    score, permitted = scores(matches), allowed(matches)
    considered: list[Considered] = []
    order = approaches
    if only_best:
        order = tuple(sorted(approaches, key=lambda each: (score[each], each in STANDARD, -APPROACHES.index(each)), reverse=True))
    for approach in order:
        if approach in not_possible:
            continue
        if only_best and hardware.gpu and _decided(considered, (score[approach], approach in STANDARD)):
            break
        if approach not in permitted:
            not_possible[approach] = message("ruled_out")
            continue
        settings = base_settings(approach, hardware, seq_len, fixed)
        settings.apply(matches, approach)
        about = of_approach(facts, approach)
        of_it = matching(rules, about, stage=1)
        settings.apply(of_it, approach)
        about = of_approach(facts, approach, rank=settings.values["rank"])
        of_rank = matching(rules, about, stage=2)
        settings.apply(of_rank, approach)
        best, lean, conceded, wish = explore(settings, hardware, request, price, offload=offload)
        of_best = matching(rules, of_recipe(about, best), stage=3) if best else ()
        in_time = best is None or within_limits(best, request)
        # On a CPU the documents' preferences, which are about GPUs, do not count.
        points = score[approach] if hardware.gpu else 0
        considered.append(Considered(approach, points, best, lean, of_it + of_rank + of_best, in_time, conceded, wish))
    asked = {approach: why for approach, why in not_possible.items() if approach in approaches}
    return SearchResult(facts, matches, tuple(considered), asked, reference)


def _decided(considered: Iterable[Considered], still_to_come: tuple[int, bool]) -> bool:
    """Whether nothing with so low a score, or lower, can be chosen."""
    good = [each for each in considered if each.comfortable and each.within_limits]
    return any((each.score, each.approach in STANDARD) > still_to_come for each in good)


def explore(
    settings: Settings, hardware: Hardware, request: PlanRequest, price: Prices, *, offload: bool = False
) -> tuple[Estimate | None, Estimate, Mapping[str, Any], Estimate]:
    """(best recipe that fits, leanest recipe, what was given up, leanest recipe that gives up nothing) of one approach.

    The first step of `concessions` at which the upper end fits is taken; if there is none, the first at which a recipe fits tightly.
    """
    leanest_yet: Estimate | None = None
    wish: Estimate | None = None
    tight: tuple[Estimate, Mapping[str, Any]] | None = None
    choice = layouts(settings, hardware, offload=offload) or layouts(settings, hardware)[-1:]
    for changes in concessions(settings, hardware):
        allowed_here = [layout for layout in choice if layout.sharding in _WHOLE or "optimizer" not in changes]
        lean = {layout: price.memory(leanest(settings, hardware, layout=layout, changes=changes)) for layout in allowed_here}
        leanest_yet = min(filter(None, (leanest_yet, *lean.values())), key=lambda estimate: estimate.memory.high_bytes)
        wish = wish or leanest_yet
        open_layouts = [layout for layout, estimate in lean.items() if estimate.memory.fits and host_has_room(estimate)]
        best = _best(settings, hardware, request, price, open_layouts, changes, in_order=offload)
        if best is not None and _comfortable(best):
            return best, leanest_yet, changes, wish
        if best is not None and tight is None:
            tight = best, changes
    assert leanest_yet is not None  # noqa: S101 - there is at least one step, and one layout
    assert wish is not None  # noqa: S101 - the same
    return (tight[0], leanest_yet, tight[1], wish) if tight else (None, leanest_yet, {}, wish)


def _best(
    settings: Settings,
    hardware: Hardware,
    request: PlanRequest,
    price: Prices,
    choice: Iterable[Layout],
    changes: Mapping[str, Any],
    *,
    in_order: bool,
) -> Estimate | None:
    """The best recipe over the layouts; with `in_order` of the first that fits comfortably, because the time of offload is not known."""

    def rank(estimate: Estimate) -> tuple[float, ...]:
        return (within_limits(estimate, request), *recipe_rank(estimate))

    best: Estimate | None = None
    bound: int | None = None
    for layout in choice:
        if best is not None and _comfortable(best) and (in_order or bound is None or comparable_speed(best) >= bound):
            break
        ladders = candidates(settings, hardware, layout=layout, changes=changes)
        fitting: list[Estimate] = []
        for ladder in ladders:
            # a micro batch that fits without checkpointing is slower with it
            largest = max((each.recipe.micro_batch for each in fitting if _comfortable(each)), default=0)
            rungs = [recipe for recipe in ladder if recipe.micro_batch > largest]
            fitting += itertools.takewhile(_fits, map(price, rungs))
        if layout.sharding == "ddp":  # no other layout is faster with the same micro batch, whether it fits or not
            bound = max(comparable_speed(price(recipe)) for ladder in ladders for recipe in ladder)
        best = max(filter(None, (best, *fitting)), key=rank, default=None)
    return best


def host_has_room(estimate: Estimate) -> bool:
    """Whether host memory holds what is offloaded for all GPUs; of a machine that was only named, its host memory is not known."""
    hardware = estimate.hardware
    return hardware.source == "named" or estimate.memory.host_bytes * len(hardware.gpus) <= hardware.ram_available_bytes


def _fits(estimate: Estimate) -> bool:
    return estimate.memory.fits


def _comfortable(estimate: Estimate) -> bool:
    return estimate.memory.verdict == "fits"
