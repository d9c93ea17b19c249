"""Shortfall: what does not fit, and what would have to change: for the plan when nothing fits, and for what the rules wanted most."""

from __future__ import annotations

from ftadvise.advisor.cautions import experts_unquantised
from ftadvise.advisor.changes import Machines, changes
from ftadvise.advisor.plan_types import APPROACH_LABELS, Change, NoPlanError, PlanRequest, Wanted
from ftadvise.advisor.rule_schema import APPROACHES
from ftadvise.advisor.search import STANDARD, Considered, Price, SearchResult
from ftadvise.advisor.texts import Text, gib, message
from ftadvise.profiles.errors import FtadviseError, InputError

_LISTED = 3
_WANTED = (*STANDARD, "full")
"""What people ask for by itself; the 8-bit base is wanted only where a rule says so."""


def no_plan(result: SearchResult, request: PlanRequest, price: Price, machines: Machines | None, *, wanted_seq_len: int) -> FtadviseError:
    """The error to raise when nothing fits at the shortest sequence length that was tried."""
    if not result.considered:
        why = next(iter(result.impossible.values()))
        return InputError(f"no approach is left to choose: {why.en}", hint="leave out --method or --quantization")
    smallest = min(result.considered, key=lambda each: each.leanest.memory.high_bytes)
    lean = smallest.leanest
    memory, recipe = lean.memory, lean.recipe
    wanted = price((smallest.wish or lean).recipe.replace(seq_len=wanted_seq_len))
    found = changes(wanted, request, price, machines)
    if not found:
        found = (Change(message("change_gpu" if lean.hardware.gpus else "change_ram", high=gib(memory.high_bytes))),)
    numbers = {"high": gib(memory.high_bytes), "available": gib(memory.available_bytes)}
    sizes = {"micro_batch": recipe.micro_batch, "seq_len": recipe.seq_len}
    why = message("nothing_fits", label=recipe.label, model=lean.model.id, **numbers, **sizes)
    experts = experts_unquantised(lean)
    if experts is not None:
        why = Text(f"{why.en}. {experts.en}", f"{why.zh} {experts.zh}")
    return NoPlanError(why, found, lean)


def most_wanted(result: SearchResult, chosen: Considered, request: PlanRequest, price: Price, machines: Machines | None) -> Wanted | None:
    """What would have to change for the approach that the rules score highest of those that do not fit; None where all fit."""
    missing = [each for each in result.considered if each.best is None and (each.score > 0 or each.approach in _WANTED)]
    if not missing or not result.facts.has_gpu:
        return None
    most = max(missing, key=lambda each: (each.score, each.approach in STANDARD, -APPROACHES.index(each.approach)))
    found = tuple(
        each for each in changes(most.wish or most.leanest, request, price, machines) if each.kind not in ("quantization", "method")
    )
    return Wanted(APPROACH_LABELS[most.approach], most.score, found[:_LISTED]) if found else None
