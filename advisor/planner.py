"""The planner: from a model, a machine and a request to a plan."""

from __future__ import annotations

from typing import NamedTuple

from ftadvise.advisor.alternatives import alternatives
from ftadvise.advisor.bottleneck import bottleneck
from ftadvise.advisor.candidates import defaults, possible_approaches, sequence_lengths
from ftadvise.advisor.cautions import cautions
from ftadvise.advisor.changes import Elsewhere, Machines
from ftadvise.advisor.limits import cut_to_limits
from ftadvise.advisor.plan_types import Plan, PlanRequest
from ftadvise.advisor.reasons import reasons
from ftadvise.advisor.rule_schema import Rule
from ftadvise.advisor.rule_set import load_rules
from ftadvise.advisor.search import Price, Prices, SearchResult, search
from ftadvise.advisor.sensitivity import sensitivity
from ftadvise.advisor.shortfall import most_wanted, no_plan
from ftadvise.estimator.cost import with_cost
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.model_spec import ModelSpec

_OTHER_KINDS = {"seq2seq": "an encoder-decoder model", "encoder": "an encoder without a language-model head"}


def make_plan(
    model: ModelSpec,
    hardware: Hardware,
    request: PlanRequest,
    price: Price,
    *,
    rules: tuple[Rule, ...] | None = None,
    elsewhere: Elsewhere | None = None,
) -> Plan:
    """Recommend a recipe.

    What fits decides first (the estimator's verdict on the upper end of its interval), then the sum of the weights of the rules that
    prefer an approach, then the tie-breaks of `search.approach_rank`; what keeps --max-hours and --budget comes before all preferences. The
    same input always gives the same plan.

    Args:
        price: called some dozens of times; with `Prices`, memory alone is asked for where that is enough.
        rules: other rules than those that come with ftadvise.
        elsewhere: the same for other machines, to say which of them would do; without it none is named.

    Raises:
        InputError: not a causal language model, or flags that contradict each other.
        NoPlanError: nothing fits; carries what would have to change.
    """
    priced = remembered(price, request)
    result, _, rungs = find(model, hardware, request, priced, load_rules() if rules is None else rules)
    chosen, other = result.chosen, None if elsewhere is None else Machines(elsewhere, hardware, request)
    if chosen is None or chosen.best is None:
        raise no_plan(result, request, priced, other, wanted_seq_len=rungs[0].seq_len)
    estimate, limits = cut_to_limits(with_cost(chosen.best, request.job), request)
    return Plan(
        request=request,
        approach=chosen.approach,
        estimate=estimate,
        score=chosen.score,
        reasons=reasons(result, chosen, estimate, request),
        alternatives=alternatives(result, chosen, priced),
        warnings=cautions(result, chosen, estimate, request, wanted_seq_len=rungs[0].seq_len) + limits,
        bottleneck=bottleneck(estimate, priced, request.lengths),
        sensitivity=sensitivity(estimate, request, priced),
        wanted=most_wanted(result, chosen, request, priced, other),
    )


def remembered(price: Price, request: PlanRequest) -> Prices:
    """The same prices, each asked for once; with what the job costs where that is limited, because only then the search asks."""
    prices = price if isinstance(price, Prices) else Prices(price)
    if request.max_hours is None and request.budget_usd is None:
        return prices
    return prices.adding(lambda estimate: with_cost(estimate, request.job))


class Rung(NamedTuple):
    """One try of the search."""

    seq_len: int
    offload: bool


def find(
    model: ModelSpec, hardware: Hardware, request: PlanRequest, price: Prices, rules: tuple[Rule, ...], *, only_best: bool = False
) -> tuple[SearchResult, Rung, tuple[Rung, ...]]:
    """(the first search that finds something, or the last, where that was, all that was to be tried).

    Raises:
        InputError: as `make_plan`.
    """
    if model.kind in _OTHER_KINDS:
        raise InputError(
            f"{model.id} is {_OTHER_KINDS[model.kind]}; this version plans causal language models only",
            hint="choose a decoder model: `ftadvise models` lists them",
        )
    approaches, impossible = possible_approaches(hardware, request.fixed)
    if set(approaches) <= set(impossible):
        why = impossible[approaches[0]].en if approaches else "they contradict each other"
        raise InputError(f"--method and --quantization leave nothing to choose: {why}", hint="leave one of them out")
    passes = _passes(model, hardware, request)
    rungs = tuple(rung for group in passes for rung in group)
    for group in passes:
        tight: tuple[SearchResult, Rung] | None = None
        for rung in group:
            result = search(
                model, hardware, request, price, rules, approaches, impossible, rung.seq_len, offload=rung.offload, only_best=only_best
            )
            chosen = result.chosen
            if chosen is not None and chosen.comfortable:
                return result, rung, rungs
            if chosen is not None and tight is None:
                tight = result, rung
        if tight is not None:
            return (*tight, rungs)
    return result, rung, rungs


def _passes(model: ModelSpec, hardware: Hardware, request: PlanRequest) -> tuple[tuple[Rung, ...], ...]:
    """Useful lengths, then lengths that cut most data; in each pass shorter sequences before host memory.

    A tight fit is taken only when the whole pass has nothing better, at the longest length that has one.
    """
    lengths = sequence_lengths(model, hardware, request.fixed, request.lengths, request.min_seq_len)
    offloads = len(hardware.gpus) > 1 and not {"offload", "sharding"} & set(request.fixed)
    useful = defaults()["seq_len"]["useful"]
    count = 1 if "seq_len" in request.fixed else max(1, sum(length >= useful for length in lengths))
    groups = [group for group in (lengths[:count], lengths[count:]) if group]
    return tuple(
        tuple(Rung(length, offload) for offload in ((False, True) if offloads else (False,)) for length in group) for group in groups
    )
