"""What `ftadvise export` says beside the files: where they are, what the target cannot express, how to start it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text as Line

from ftadvise.advisor.export import Exported, Target
from ftadvise.estimator.estimate_types import Estimate
from ftadvise.estimator.plan_file import PlanFile
from ftadvise.estimator.recipe import Recipe
from ftadvise.rendering.console import err_console
from ftadvise.rendering.texts import text
from ftadvise.rendering.units import gib


def show_account(target: Target, exported: Exported, folder: Path | None, backups: Sequence[Path], recipe: Recipe, lang: str) -> None:
    """On stderr, so that a file printed on stdout can go through a pipe."""
    console = err_console()
    console.print(Line(target.title, style="bold"))
    names = list(exported.files)
    if folder is not None:
        console.print(Line(text("export.wrote", lang, folder=folder, files=", ".join(names))), style="dim")
    elif len(names) > 1:
        console.print(Line(text("export.others", lang, files=", ".join(names[1:]))), style="yellow")
    for backup in backups:
        console.print(Line(text("export.kept", lang, backup=backup)), style="yellow")
    if exported.missing:
        console.print(Line(text("export.missing", lang, count=len(exported.missing))), style="yellow")
        values = recipe.to_dict()
        reasons: dict[str, list[str]] = {}
        for field, why in exported.missing.items():
            reasons.setdefault(why.in_language(lang), []).append(field)
        for why_text, fields in reasons.items():
            said = ", ".join(f"{field}" if len(fields) > 1 else f"{field} {_value(values[field])}" for field in sorted(fields))
            console.print(Line(f"  • {said}: {why_text}"))
    for note in exported.notes:
        console.print(Line(f"  • {note.in_language(lang)}"))


def show_price(there: Estimate, plan_file: PlanFile, lang: str) -> None:
    """What the recipe, as the target will train it, takes on the machine of the plan."""
    memory = there.memory
    planned = plan_file.predicted.get("memory", {}).get("device_used_bytes")
    words = text(
        "export.price",
        lang,
        stack=there.stack.name,
        used=gib(memory.device_used_bytes),
        high=gib(memory.high_bytes),
        available=gib(memory.available_bytes),
        planned=gib(planned) if isinstance(planned, int) else "?",
    )
    style = {"fits": "green", "tight": "yellow"}.get(memory.verdict, "red")
    err_console().print(Line(f"{words}: ").append(text(f"verdict.{memory.verdict}", lang), style=style))


def show_start(start: str, lang: str) -> None:
    """The command, on a line of its own that can be copied."""
    console = err_console()
    console.print(Line(text("export.start", lang)), style="dim")
    console.print(Line(start), soft_wrap=True)


def targets_view(targets: Iterable[Target], lang: str) -> Table:
    """One line per target."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("--to", no_wrap=True)
    table.add_column(text("export.title", lang))
    table.add_column("--stack", no_wrap=True)
    for target in targets:
        table.add_row(target.name, target.title, target.stack or "")
    return table


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
