"""How long the recommended recipe trains, and cutting it to --max-hours and --budget."""

from __future__ import annotations

import math

from ftadvise.advisor.cautions import duration_words
from ftadvise.advisor.plan_types import Duration, PlanRequest
from ftadvise.advisor.search import Price
from ftadvise.advisor.texts import Text, message
from ftadvise.estimator.estimate_types import Estimate


def limit_duration(estimate: Estimate, request: PlanRequest, price: Price) -> tuple[Estimate, Duration | None, tuple[Text, ...]]:
    """The estimate, with `max_steps` set when a limit asks for it; its duration (None when not known); warnings.

    steps = ceil(sequences * epochs / sequences per step over all GPUs), or the recipe's max_steps; hours = steps * seconds per step.
    A sequence is an example, or with packing what the data's lengths fill; packing of data whose lengths are not known is ignored.
    """
    speed, recipe, gpus = estimate.throughput, estimate.recipe, estimate.hardware.gpus
    limited = request.max_hours is not None or request.budget_usd is not None
    if speed is None or speed.seconds_per_step <= 0:
        return estimate, None, ((message("no_speed"),) if limited else ())
    dollars_per_hour = sum(gpu.price_usd_per_hour or math.nan for gpu in gpus) if gpus else math.nan
    whole = recipe.max_steps or None
    sequences = request.lengths.packed_sequences(recipe.seq_len) if request.lengths and recipe.packing else request.examples
    if whole is None and sequences is not None:
        whole = math.ceil(sequences * recipe.epochs / (recipe.sequences_per_step * max(1, len(gpus))))
    warnings = []
    limits = [request.max_hours] if request.max_hours is not None else []
    if request.budget_usd is not None:
        if math.isnan(dollars_per_hour):
            warnings.append(message("no_price", gpu=gpus[0].name if gpus else "this CPU"))
        else:
            limits.append(request.budget_usd / dollars_per_hour)
    steps = whole
    if limits:
        affordable = int(min(limits) * 3600 / speed.seconds_per_step)
        hours = f"{min(limits):.3g}"
        if affordable < 1:
            warnings.append(message("limit_too_small", step=duration_words(speed.seconds_per_step), hours=hours))
        elif whole is None:
            warnings.append(message("steps_limited_unknown", steps=affordable, hours=hours))
        elif affordable < whole:
            warnings.append(message("steps_limited", steps=affordable, hours=hours, whole=whole))
        if whole is None or affordable < whole:
            steps = max(1, affordable)
            estimate = price(recipe.replace(max_steps=steps))
    if steps is None:
        return estimate, None, tuple(warnings)
    hours_needed = steps * speed.seconds_per_step / 3600
    cost = None if math.isnan(dollars_per_hour) else hours_needed * dollars_per_hour
    return estimate, Duration(steps, hours_needed, cost), tuple(warnings)
