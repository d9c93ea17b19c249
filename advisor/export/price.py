"""What a plan costs where it is exported to: the other trainer's code, with what it does in place of what it cannot do."""

from __future__ import annotations

from ftadvise.advisor.export.target import Exported, Target
from ftadvise.estimator.estimate import estimate
from ftadvise.estimator.estimate_types import Estimate
from ftadvise.estimator.plan_file import PlanFile
from ftadvise.estimator.stack import stack_of
from ftadvise.profiles.errors import FtadviseError
from ftadvise.profiles.probe import named_hardware
from ftadvise.profiles.resolve_model import resolve_model


def price_there(plan_file: PlanFile, target: Target, exported: Exported) -> Estimate | None:
    """The estimate on the target's stack and the plan's machine. A field that is missing there takes the stack's own value.

    None where the target is no trainer, or model or machine are not known here.
    """
    if target.stack is None:
        return None
    made_for, recipe = plan_file.made_for, plan_file.recipe
    try:
        stack = stack_of(target.stack)
        quantized = recipe.quantization != "none"
        defaults = stack.recipe_defaults(quantized=quantized, compute_dtype=recipe.compute_dtype)
        if "method" in exported.missing:
            recipe = recipe.replace(method="lora")
        recipe = recipe.replace(**{field: value for field, value in defaults.items() if field in exported.missing})
        hardware = named_hardware(f"{max(1, made_for.count)}x {made_for.gpu}" if made_for.gpu else "cpu")
        model = resolve_model(plan_file.local_path or plan_file.model_id, offline=True)
        return estimate(model, hardware, recipe, stack)
    except FtadviseError:
        return None
