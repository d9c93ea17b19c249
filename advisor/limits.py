"""Limits: --max-hours and --budget. A recipe that keeps them is preferred to one that does not; if none does, the steps are cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from ftadvise.advisor.plan_types import PlanRequest
from ftadvise.advisor.texts import Text, duration_words, message
from ftadvise.estimator.cost import Cost, with_cost
from ftadvise.estimator.estimate_types import Estimate


def within_limits(estimate: Estimate, request: PlanRequest) -> bool:
    """Whether the whole training keeps the limits, by the middle of its interval; True where its length or its price is not known."""
    cost = estimate.cost
    return cost is None or all(limit >= cost.hours.value for limit in _limits_in_hours(cost, request))


def limit_words(request: PlanRequest) -> Text:
    """The limits as a person says them: "2 h", "$5", "2 h and $5"."""
    parts = [f"{request.max_hours:g} h"] if request.max_hours is not None else []
    parts += [f"${request.budget_usd:g}"] if request.budget_usd is not None else []
    return Text(" and ".join(parts), "、".join(parts))


def cut_to_limits(estimate: Estimate, request: PlanRequest) -> tuple[Estimate, tuple[Text, ...]]:
    """The estimate, with `max_steps` set where the whole training is over a limit or its length is not known; and what there is to say."""
    if request.max_hours is None and request.budget_usd is None:
        return estimate, ()
    rate = estimate.cost or estimate.cost_per_million_tokens
    if estimate.throughput is None or rate is None:
        return estimate, (message("no_speed"),)
    warnings = []
    if request.budget_usd is not None and rate.usd is None:
        gpu = estimate.hardware.gpu
        warnings.append(message("no_price", gpu=gpu.name if gpu else "this CPU"))
    limits = list(_limits_in_hours(rate, request))
    if not limits:
        return estimate, tuple(warnings)
    whole = estimate.cost.steps if estimate.cost else None
    seconds, words = estimate.throughput.seconds_per_step, limit_words(request)
    affordable = int(min(limits) * 3600 / seconds)
    if whole is not None and affordable >= whole:
        return estimate, tuple(warnings)
    if affordable < 1:
        warnings.append(message("limit_too_small", step=duration_words(seconds), limit=words))
    elif whole is None:
        warnings.append(message("steps_limited_unknown", steps=f"{affordable:,}", limit=words))
    else:
        numbers = {"steps": f"{affordable:,}", "whole": f"{whole:,}", "percent": f"{100 * affordable / whole:.0f}"}
        time = duration_words(3600 * rate.hours.value)
        warnings.append(message("steps_limited", limit=words, time=time, dollars=dollar_words(rate), **numbers))
    return with_cost(_with_steps(estimate, max(1, affordable)), request.job), tuple(warnings)


def dollar_words(cost: Cost) -> Text:
    """What ends a sentence about time, such as ", $1.20"; nothing where the price is not known."""
    return Text(f", ${cost.usd.value:,.2f}", f"，${cost.usd.value:,.2f}") if cost.usd else Text("", "")


def _limits_in_hours(cost: Cost, request: PlanRequest) -> Iterator[float]:
    """Each limit in hours, as far as it can be applied; money goes by the hour."""
    if request.max_hours is not None:
        yield request.max_hours
    if request.budget_usd is not None and cost.usd is not None and cost.usd.value > 0:
        yield request.budget_usd * cost.hours.value / cost.usd.value


def _with_steps(estimate: Estimate, steps: int) -> Estimate:
    """The same estimate with fewer steps: neither memory nor speed depends on them."""
    return dataclasses.replace(estimate, recipe=estimate.recipe.replace(max_steps=steps))
