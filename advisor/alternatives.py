"""Alternatives: what else was considered, and in one sentence with one number why it is not the recommended recipe."""

from __future__ import annotations

from ftadvise.advisor.limits import dollar_words
from ftadvise.advisor.plan_types import Alternative
from ftadvise.advisor.search import STANDARD, Considered, Price, SearchResult, approach_rank
from ftadvise.advisor.texts import Text, duration_words, gib, message, rate
from ftadvise.estimator.estimate_types import Estimate
from ftadvise.estimator.recipe import Sharding
from ftadvise.profiles.errors import FtadviseError
from ftadvise.profiles.hardware import GIB

_LAYOUTS: tuple[Sharding, ...] = ("ddp", "zero2", "zero3", "fsdp")


def alternatives(result: SearchResult, chosen: Considered, price: Price) -> tuple[Alternative, ...]:
    """The best recipe of every other approach, best first, then those that do not fit; of several GPUs the other layouts first."""
    assert chosen.best is not None  # noqa: S101 - only an approach that fits is chosen
    listed = _other_layouts(chosen, chosen.best, price)
    others = [each for each in result.considered if each is not chosen]
    fitting = sorted((each for each in others if each.best is not None), key=approach_rank, reverse=True)
    listed += [Alternative(_label(each.best), each.best, _why_not(each, chosen), each.score) for each in fitting if each.best]
    for each in others:
        if each.best is None:
            listed.append(Alternative(_label(each.leanest), each.leanest, _too_big(each.leanest), each.score))
    return tuple(listed)


def _label(estimate: Estimate) -> str:
    """The recipe's name, with what is unusual about it here."""
    recipe = estimate.recipe
    unusual: list[str] = [recipe.sharding] if recipe.sharding not in ("none", "ddp") else []
    unusual += ["paged Adam"] if estimate.memory.fits and recipe.optimizer.startswith("paged") else []
    return ", ".join([recipe.label, *unusual])


def _too_big(estimate: Estimate) -> Text:
    memory = estimate.memory
    high, missing, available = (gib(n) for n in (memory.high_bytes, memory.high_bytes - memory.available_bytes, memory.available_bytes))
    return message("alternative_does_not_fit", high=high, missing=missing, available=available)


def _other_layouts(chosen: Considered, best: Estimate, price: Price) -> list[Alternative]:
    """The chosen recipe on the same GPUs shared otherwise: what each needs, or how much slower it is."""
    recipe = best.recipe
    if recipe.sharding == "none" or len(best.hardware.gpus) < 2:
        return []
    found = []
    for sharding in _LAYOUTS:
        skipped = sharding == recipe.sharding or (sharding == "zero2" and recipe.method != "full")
        if skipped or (sharding == "fsdp" and recipe.sharding in ("none", "ddp")):
            continue
        try:
            other = price(recipe.replace(sharding=sharding, offload="none"))
        except FtadviseError:
            continue
        if not other.memory.fits:
            memory = other.memory
            why = message("layout_does_not_fit", high=gib(memory.high_bytes), missing=gib(memory.high_bytes - memory.available_bytes))
        else:
            percent = round(100 * (1 - _speed(other) / _speed(best))) if _speed(best) else 0
            saved = best.memory.device_used_bytes - other.memory.device_used_bytes
            same = abs(saved) < 0.05 * GIB
            slower = message("slower_by", percent=percent) if percent > 0 else message("as_fast")
            numbers = {} if same else {"saved": gib(abs(saved))}
            why = message("layout_same" if same else "layout_smaller" if saved > 0 else "layout_larger", speed=slower, **numbers)
        found.append(Alternative(f"{recipe.label}, {sharding}", other, why, chosen.score))
    return found


def _why_not(other: Considered, chosen: Considered) -> Text:
    """The scores, and how much slower or faster it is; or that it takes longer than it may, or fits only tightly."""
    assert other.best is not None  # noqa: S101 - the caller has seen to it
    if chosen.within_limits and not other.within_limits and other.best.cost:
        cost = other.best.cost
        time = duration_words(3600 * cost.hours.value)
        return message("alternative_over_limit", score=other.score, time=time, dollars=dollar_words(cost))
    if chosen.comfortable and not other.comfortable:
        memory = other.best.memory
        return message("alternative_tight", score=other.score, high=gib(memory.high_bytes), available=gib(memory.available_bytes))
    if other.score == chosen.score and other.approach not in STANDARD and chosen.approach in STANDARD:
        return message("alternative_not_standard", score=other.score)
    speed, best_speed = _speed(other.best), _speed(chosen.best)
    if not speed or not best_speed:
        return message("alternative_fits", score=other.score, best=chosen.score)
    change = round(100 * (speed / best_speed - 1))
    name = "alternative_faster" if change > 0 else "alternative_slower" if change < 0 else "alternative_as_fast"
    numbers = {"percent": abs(change), "speed": rate(speed), "best_speed": rate(best_speed)}
    return message(name, score=other.score, best=chosen.score, **numbers)


def _speed(estimate: Estimate | None) -> float:
    return estimate.throughput.tokens_per_second if estimate and estimate.throughput else 0.0
