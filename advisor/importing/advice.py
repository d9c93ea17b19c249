"""What we would change in a configuration that somebody wrote: what makes it fit, or what makes it faster. Each change is priced."""

from __future__ import annotations

from ftadvise.advisor.bottleneck import bottleneck
from ftadvise.advisor.changes import changes
from ftadvise.advisor.plan_types import PlanRequest
from ftadvise.advisor.search import Price
from ftadvise.advisor.texts import Text
from ftadvise.estimator.estimate_types import Estimate


def advice(estimate: Estimate, price: Price) -> tuple[Text, ...]:
    """Changes that make it fit, those that give up least first, then what saves most; where it fits, those that gain most time.

    Empty: we would leave it.

    Args:
        price: the estimate of a recipe for the same model, machine and stack.
    """
    found = bottleneck(estimate, price)
    if estimate.memory.fits:
        return found.faster if found else ()
    return tuple(change.text for change in changes(estimate, PlanRequest(), price, None)) + (found.smaller if found else ())
