"""Cautions: what the user should know before running the plan."""

from __future__ import annotations

from ftadvise.advisor.candidates import defaults
from ftadvise.advisor.plan_types import PlanRequest
from ftadvise.advisor.reasons import settings_for
from ftadvise.advisor.search import Considered, SearchResult
from ftadvise.advisor.texts import Text, duration_words, gib, message, rate
from ftadvise.estimator.estimate_types import Estimate
from ftadvise.estimator.recipe import DTYPE_BYTES

_GPUS_OF_A_NODE = 8


def cautions(
    result: SearchResult, chosen: Considered, estimate: Estimate, request: PlanRequest, *, wanted_seq_len: int
) -> tuple[Text, ...]:
    """All warnings of a plan: from rules, from the fit, the hardware, the model, and flags outside the documents' ranges."""
    rule_warnings = [
        effect.text for match in result.matches + chosen.settled if match.premise_holds for effect in match.effects("warn") if effect.text
    ]
    return tuple(
        rule_warnings
        + _fit(estimate, wanted_seq_len)
        + (_many_gpus(estimate) if estimate.hardware.gpu else _cpu(estimate))
        + _model(estimate)
        + _outside_range(result, chosen, estimate, request)
    )


def _fit(estimate: Estimate, wanted_seq_len: int) -> list[Text]:
    memory, recipe, model = estimate.memory, estimate.recipe, estimate.model
    found = []
    if memory.verdict == "tight":
        found.append(message("tight", missing=gib(memory.high_bytes - memory.available_bytes)))
    if recipe.seq_len < wanted_seq_len:
        found.append(message("shortened", seq_len=recipe.seq_len, wanted=wanted_seq_len))
    if model.max_position and recipe.seq_len > model.max_position:
        found.append(message("beyond_position", seq_len=recipe.seq_len, max_position=model.max_position, model=model.id))
    return found


def _cpu(estimate: Estimate) -> list[Text]:
    found = []
    speed = estimate.throughput
    if speed and speed.tokens_per_second > 0:
        hours = 1e6 / speed.tokens_per_second / 3600
        shown = f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}"
        if hours > defaults()["impractical_hours_per_million_tokens"]:
            found.append(message("cpu_impractical", model=estimate.model.id, hours=shown))
        step = duration_words(speed.seconds_per_step)
        found.append(message("cpu_speed", speed=rate(speed.tokens_per_second), step=step, hours=shown))
    if estimate.recipe.quantization in ("nf4", "fp4"):
        found.append(message("cpu_nf4"))
    return found


def _many_gpus(estimate: Estimate) -> list[Text]:
    gpus, recipe = estimate.hardware.gpus, estimate.recipe
    if recipe.offload != "none":
        return [message("offload_not_timed", total=gib(estimate.memory.host_bytes * len(gpus)))]
    if len(gpus) < 2:
        return []
    found = []
    if recipe.sharding == "none":
        found.append(message("one_of_many", count=len(gpus)))
    elif len(gpus) > _GPUS_OF_A_NODE:
        found.append(message("many_nodes", count=len(gpus)))
    smallest = min(gpus, key=lambda gpu: gpu.memory_bytes if gpu.free_bytes is None else gpu.free_bytes)
    if smallest.memory_bytes < gpus[0].memory_bytes:
        found.append(message("mixed_gpus", name=gpus[0].name, smaller=smallest.name))
    return found


def _model(estimate: Estimate) -> list[Text]:
    model = estimate.model
    found = [message("special", model=model.id, features=", ".join(model.special))] if model.special else []
    experts = experts_unquantised(estimate)
    if experts is not None:
        found.append(experts)
    if model.kind == "vision_language":
        found.append(message("vision", model=model.id))
    if model.remote_code:
        found.append(message("remote_code", model=model.id))
    return found


def experts_unquantised(estimate: Estimate) -> Text | None:
    """What a quantised base leaves out of a mixture-of-experts model; None where it leaves out nothing."""
    model, recipe = estimate.model, estimate.recipe
    if recipe.quantization == "none" or model.experts is None or not model.experts.fused_parameters:
        return None
    size = gib(model.experts.parameters * DTYPE_BYTES[recipe.compute_dtype])
    return message("experts_unquantised", model=model.id, size=size, dtype=recipe.compute_dtype)


def _outside_range(result: SearchResult, chosen: Considered, estimate: Estimate, request: PlanRequest) -> list[Text]:
    """Fields that the user fixed outside what a rule allows."""
    found = []
    for match in result.matches + chosen.settled:
        for field, limit, kind in settings_for(match, chosen.approach):
            if field in request.fixed and kind != "set":
                value = getattr(estimate.recipe, field)
                if (kind == "at_least" and value < limit) or (kind == "at_most" and value > limit):
                    allowed = f"{'>=' if kind == 'at_least' else '<='} {limit}"
                    found.append(message("outside_range", rule=match.rule.id, field=field, value=value, range=allowed))
    return found
