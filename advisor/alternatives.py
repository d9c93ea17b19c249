"""Alternatives: what else was considered, and in one sentence why it is not the recommended recipe."""

from __future__ import annotations

from ftadvise.advisor.plan_types import Alternative, PlanRequest
from ftadvise.advisor.search import STANDARD, Considered, Price, SearchResult, approach_rank, longest_that_fits
from ftadvise.advisor.texts import Text, gib, message, rate
from ftadvise.estimator.estimate_types import Estimate


def alternatives(result: SearchResult, chosen: Considered, price: Price, request: PlanRequest) -> tuple[Alternative, ...]:
    """The best recipe of every other approach (best first, then those that do not fit), and the longest sequences that fit, where
    the data is not known to be shorter."""
    assert chosen.best is not None  # noqa: S101 - only an approach that fits is chosen
    others = [each for each in result.considered if each is not chosen]
    fitting = sorted((each for each in others if each.best is not None), key=approach_rank, reverse=True)
    listed = [Alternative(each.best.recipe.label, each.best, _why_not(each, chosen), each.score) for each in fitting if each.best]
    for each in others:
        if each.best is None:
            memory = each.leanest.memory
            high, missing, available = (
                gib(n) for n in (memory.high_bytes, memory.high_bytes - memory.available_bytes, memory.available_bytes)
            )
            why = message("alternative_does_not_fit", high=high, missing=missing, available=available)
            listed.append(Alternative(each.leanest.recipe.label, each.leanest, why, each.score))
    covered = request.lengths is not None and request.lengths.truncated(chosen.best.recipe.seq_len) == 0
    if result.facts.has_gpu and "seq_len" not in request.fixed and not covered:
        longer = longest_that_fits(chosen.best, price, request.fixed)
        if longer is not None:
            recipe = longer.recipe
            speed = _speed(longer)
            tokens = Text(f", {rate(speed)} tokens/s", f"，每秒 {rate(speed)} 个 token") if speed else Text("", "")
            why = message("alternative_longer", seq_len=f"{recipe.seq_len:,}", micro_batch=recipe.micro_batch, speed=tokens)
            listed.append(Alternative(f"{recipe.label}, {recipe.seq_len:,} tokens", longer, why, chosen.score))
    return tuple(listed)


def _why_not(other: Considered, chosen: Considered) -> Text:
    """The scores, and how much slower or faster it is."""
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
