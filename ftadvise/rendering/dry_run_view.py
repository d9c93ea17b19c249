"""`ftadvise run --dry-run`: every library call of the run with its arguments, as Python would write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from ftadvise.profiles.printable import one_line
from ftadvise.rendering.texts import text

if TYPE_CHECKING:
    from ftadvise.runner.resolved_calls import ResolvedCall


def dry_run_view(calls: Sequence[ResolvedCall], lang: str) -> RenderableType:
    """The calls in the order of the run, an argument a line."""
    lines: list[RenderableType] = [Text(text("dry_run.title", lang), style="bold")]
    for call in calls:
        lines.append(Text(f"{call.name}(", style="cyan"))
        lines += [Text("    " + one_line(f"{f'{name}=' if name else ''}{_literal(value)},")) for name, value in call.arguments.items()]
        lines.append(Text(")", style="cyan"))
    return Group(*lines)


def dry_run_document(calls: Sequence[ResolvedCall], *, model: str, recipe: dict[str, Any], run_folder: str) -> dict[str, Any]:
    """The same as JSON."""
    from ftadvise.runner.resolved_calls import DRY_RUN_SCHEMA

    return {
        "schema": DRY_RUN_SCHEMA,
        "model": model,
        "run_folder": run_folder,
        "recipe": recipe,
        "calls": [each.to_dict() for each in calls],
    }


def _literal(value: Any) -> str:
    """As Python writes it; dtypes and what earlier calls made without quotes."""
    return value if isinstance(value, str) and value.startswith(("torch.", "<")) else repr(value)
