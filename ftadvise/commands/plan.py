"""`ftadvise plan`."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import click

from ftadvise.commands.options import json_option, lang_option, language, print_json, recipe_fields, recipe_options

PLAN_NAME = "ftadvise-plan.yaml"


@click.command("plan")
@click.option("--model", "-m", help="Hub id, short name, local folder or GGUF file (default: the embedded SmolLM2-135M-Instruct).")
@click.option("--gpu", "-g", help='A GPU by name, e.g. "RTX 4090", "2x A100-80GB"; "cpu" for none (default: this machine).')
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Training data, JSONL, JSON or CSV; its lengths choose --seq-len (default: the small demo set).",
)
@click.option("--task", type=click.Choice(["research", "prototype", "chat", "multi_tenant", "edge"]), help="What it is for.")
@click.option("--team", type=click.Choice(["beginner", "experienced"]), help="Who runs it.")
@click.option("--priority", type=click.Choice(["accuracy", "cost", "speed", "memory"]), help="What matters most.")
@click.option("--max-hours", type=float, help="Limit of the training time.")
@click.option("--budget", type=float, help="Limit of the cost in US dollars.")
@click.option("--stack", default="trl", show_default=True, help="The training code that will run it.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help=f"The plan file (default: {PLAN_NAME}; with --json none).")
@click.option("--why", is_flag=True, help="Show every rule that fired in full.")
@recipe_options
@json_option
@lang_option
def command(
    model: str | None,
    gpu: str | None,
    data: Path | None,
    task: Any,
    team: Any,
    priority: Any,
    max_hours: float | None,
    budget: float | None,
    stack: str,
    output: Path | None,
    why: bool,
    as_json: bool,
    lang: str | None,
    **options: Any,
) -> None:
    """Recommend a recipe for a model on a GPU, say why, and write the plan file that `ftadvise run` executes.

    What fits decides before what is preferred. Every recipe flag you give stays as given.
    """
    gc.set_threshold(100_000)  # a short life with many small objects: looking for cycles costs a tenth of it
    from ftadvise import api
    from ftadvise.advisor.plan_types import NoPlanError, PlanRequest

    lengths = api.data_lengths(data, model) if data else None
    request = PlanRequest(
        task=task,
        team=team,
        priority=priority,
        fixed=recipe_fields(options),
        data_path=str(data) if data else None,
        examples=lengths.examples if lengths else _demo_examples() if model is None else None,
        lengths=lengths,
        max_hours=max_hours,
        budget_usd=budget,
    )
    try:
        plan = api.plan(model, gpu=gpu, stack=stack, request=request)
    except NoPlanError as error:
        if as_json:
            changes = [{"change": each.text.en, "change_zh": each.text.zh} for each in error.changes]
            print_json({"schema": "ftadvise.plan/1", "recommended": None, "reason": str(error), "changes": changes})
        raise
    if output is None and not as_json:
        output = Path(PLAN_NAME)
    replaced = _write(output, api.plan_file_of(plan)) if output else None
    if as_json:
        print_json(plan.to_json())
        return
    from ftadvise.rendering.console import err_console, out_console
    from ftadvise.rendering.plan_view import plan_view

    chosen = language(lang)
    out_console().print(plan_view(plan, chosen, every_rule=why))
    from ftadvise.rendering.texts import text

    hints = err_console()
    if replaced:
        hints.print(text("plan.replaced", chosen, backup=replaced), style="dim")
    hints.print(text("plan.next", chosen, path=output), style="dim")


def _demo_examples() -> int:
    from ftadvise.runner.data import demo_data_path, load_rows

    return len(load_rows(demo_data_path()).rows)


def _write(path: Path, plan_file: Any) -> Path | None:
    """Write the plan file; an older plan in its place is kept as `.bak`, anything else is not touched.

    Raises:
        InputError: a file that is not a plan is in the way.
    """
    from ftadvise.estimator.plan_file import write_plan_file
    from ftadvise.profiles.errors import InputError

    backup = None
    if path.is_dir():
        raise InputError(f"{path} is a folder", hint=f"-o {path / PLAN_NAME}")
    if path.exists():
        if "schema: ftadvise.plan-file/" not in path.read_text(encoding="utf-8", errors="replace")[:1000]:
            raise InputError(f"{path} exists and is not a plan file", hint="choose another name with -o")
        backup = path.with_name(path.name + ".bak")
        backup.write_bytes(path.read_bytes())
    write_plan_file(path, plan_file)
    return backup
