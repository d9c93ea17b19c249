"""What should I do? Rule engine, search over recipes, explanation.

The public names are loaded when they are first used, so that importing the package stays cheap.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Alternative": "plan_types",
    "Change": "plan_types",
    "Explanation": "explain",
    "NoPlanError": "plan_types",
    "Plan": "plan_types",
    "PlanRequest": "plan_types",
    "Reason": "plan_types",
    "Rule": "rule_schema",
    "Text": "texts",
    "explain_rule": "explain",
    "list_rules": "explain",
    "load_rules": "rule_set",
    "make_plan": "planner",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
