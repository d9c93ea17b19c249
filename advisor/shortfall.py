"""Shortfall: nothing fits, and what would have to change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ftadvise.advisor.candidates import adapter_dtype, defaults
from ftadvise.advisor.cautions import experts_unquantised
from ftadvise.advisor.plan_types import Change, NoPlanError, PlanRequest
from ftadvise.advisor.search import Price, SearchResult
from ftadvise.advisor.texts import Text, gib, message
from ftadvise.estimator.estimate_types import Estimate
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import FtadviseError, InputError


def no_plan(result: SearchResult, request: PlanRequest, price: Price) -> FtadviseError:
    """The error to raise when nothing fits at the shortest sequence length that was tried."""
    if not result.considered:
        why = next(iter(result.impossible.values()))
        return InputError(f"no approach is left to choose: {why.en}", hint="leave out --method or --quantization")
    lean = min((each.leanest for each in result.considered), key=lambda estimate: estimate.memory.high_bytes)
    memory, recipe = lean.memory, lean.recipe
    changes = list(_relaxations(lean, request, price))
    gpus = lean.hardware.gpus
    changes.append(Change(message("change_gpu" if gpus else "change_ram", high=gib(memory.high_bytes))))
    if len(gpus) > 1:
        changes.append(Change(message("change_shard", count=len(gpus))))
    numbers = {"high": gib(memory.high_bytes), "available": gib(memory.available_bytes)}
    sizes = {"micro_batch": recipe.micro_batch, "seq_len": recipe.seq_len}
    why = message("nothing_fits", label=recipe.label, model=lean.model.id, **numbers, **sizes)
    experts = experts_unquantised(lean)
    if experts is not None:
        why = Text(f"{why.en}. {experts.en}", f"{why.zh} {experts.zh}")
    return NoPlanError(why, tuple(changes))


def _relaxations(lean: Estimate, request: PlanRequest, price: Price) -> Iterator[Change]:
    """Flags of the user that, changed one at a time, make the request fit; the smallest change first."""
    recipe, fixed = lean.recipe, request.fixed
    options: list[tuple[str, list[Recipe]]] = []
    if fixed.get("gradient_checkpointing") is False:
        options.append(("--gradient-checkpointing", [recipe.replace(gradient_checkpointing=True)]))
    for name, floor in (("micro_batch", 1), ("seq_len", defaults()["seq_len"]["shortest"]), ("rank", 8)):
        if name in fixed:
            options.append(("--" + name.replace("_", "-") + " {}", _smaller(recipe, name, floor)))
    gpu = lean.hardware.gpu
    if recipe.quantization != "nf4" and {"method", "quantization"} & set(fixed) and (gpu is None or gpu.supports_bitsandbytes):
        changes: dict[str, Any] = {"quantization": "nf4", "double_quantization": True}
        changes["adapter_dtype"] = adapter_dtype("nf4", recipe.compute_dtype)
        if recipe.method == "full":
            changes["method"] = "lora"
        options.append(("--method qlora", [recipe.replace(**changes)]))
    for flag, recipes in options:
        for smaller in recipes:
            estimate = price(smaller)
            if estimate.memory.fits:
                value = getattr(smaller, flag.split()[0].removeprefix("--").replace("-", "_"), "")
                yield Change(message("change_field", flag=flag.format(value), high=gib(estimate.memory.high_bytes)), estimate)
                break


def _smaller(recipe: Recipe, name: str, floor: int) -> list[Recipe]:
    """The recipe with one size halved again and again, down to `floor`."""
    value, found = getattr(recipe, name) // 2, []
    while value >= floor:
        found.append(recipe.replace(**{name: value}))
        value //= 2
    return found
