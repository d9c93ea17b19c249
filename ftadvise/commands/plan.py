"""`ftadvise plan`."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import click

from ftadvise.commands.data_options import DATA_HELP, data_options, data_settings, take_data_fields
from ftadvise.commands.options import (
    calibration_option,
    cost_options,
    json_option,
    lang_option,
    language,
    print_json,
    recipe_fields,
    recipe_options,
    rules_option,
)
from ftadvise.commands.output_file import check_replaceable, keep_old
from ftadvise.commands.page_file import html_option, write_plan_page, write_shortfall_page
from ftadvise.profiles.errors import InputError

PLAN_NAME = "ftadvise-plan.yaml"


@click.command("plan")
@click.option("--model", "-m", help="Hub id, short name, local folder or GGUF file (default: the embedded SmolLM2-135M-Instruct).")
@click.option(
    "--gpu", "-g", help='A GPU by name, e.g. "RTX 4090", "2x A100-80GB"; "cpu" for none; "any" lists which can (default: this machine).'
)
@click.option("--data", metavar="DATA", help=f"{DATA_HELP}; its lengths choose --seq-len (default: the small demo set).")
@data_options
@click.option("--task", type=click.Choice(["research", "prototype", "chat", "multi_tenant", "edge"]), help="What it is for.")
@click.option("--team", type=click.Choice(["beginner", "experienced"]), help="Who runs it.")
@click.option("--priority", type=click.Choice(["accuracy", "cost", "speed", "memory"]), help="What matters most.")
@click.option("--max-hours", type=float, help="Limit of the training time; recipes that keep it come first.")
@click.option("--budget", type=float, help="Limit of the cost in US dollars; recipes that keep it come first.")
@click.option("--min-seq-len", type=int, help="No plan with shorter sequences than this.")
@click.option("--examples", type=int, help="Training examples, where no --data tells; they decide time and cost.")
@cost_options
@click.option("--stack", default="trl", show_default=True, help="The training code that will run it.")
@rules_option
@click.option("--output", "-o", type=click.Path(path_type=Path), help=f"The plan file (default: {PLAN_NAME}; with --json none).")
@html_option
@click.option("--why", is_flag=True, help="Show every rule that fired in full.")
@recipe_options
@calibration_option
@json_option
@lang_option
def command(
    model: str | None,
    gpu: str | None,
    data: str | None,
    task: Any,
    team: Any,
    priority: Any,
    max_hours: float | None,
    budget: float | None,
    min_seq_len: int | None,
    examples: int | None,
    price: float | None,
    electricity: float | None,
    stack: str,
    rules: tuple[Path, ...],
    output: Path | None,
    html: Path | None,
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

    settings = data_settings(data, take_data_fields(options))
    lengths = api.data_lengths(settings, model) if data else None
    request = PlanRequest(
        task=task,
        team=team,
        priority=priority,
        fixed=recipe_fields(options),
        data=settings,
        examples=lengths.examples if lengths else examples or (_demo_examples() if model is None else None),
        lengths=lengths,
        max_hours=max_hours,
        budget_usd=budget,
        min_seq_len=min_seq_len,
        price_usd_per_gpu_hour=price,
        electricity_usd_per_kwh=electricity,
    )
    if gpu is not None and gpu.strip().casefold() == "any":
        if html is not None:
            raise InputError("--html shows one plan, and --gpu any makes none", hint="name a GPU")
        _show_offers(api.offers(model, stack=stack, request=request, rules=rules), language(lang), as_json=as_json)
        return
    try:
        plan = api.plan(model, gpu=gpu, stack=stack, request=request, rules=rules)
    except NoPlanError as error:
        if html is not None:
            write_shortfall_page(html, error, language(lang))
        if as_json:
            changes = [each.to_json() for each in error.changes]
            print_json({"schema": "ftadvise.plan/1", "recommended": None, "reason": str(error), "changes": changes})
        raise
    if output is None and not as_json:
        output = Path(PLAN_NAME)
    replaced = _write(output, api.plan_file_of(plan)) if output else None
    if html is not None:
        write_plan_page(html, plan, output or Path(PLAN_NAME), language(lang))
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
    if html is not None:
        hints.print(text("plan.page", chosen, path=html), style="dim")
    hints.print(text("plan.next" if plan.recipe.sharding == "none" else "plan.next_several", chosen, path=output), style="dim")


def _show_offers(offers: Any, lang: str, *, as_json: bool) -> None:
    """Print which GPUs can do it; nothing is written, because no one of them was chosen.

    Raises:
        NoPlanError: none can.
    """
    from ftadvise.profiles.errors import NothingFitsError
    from ftadvise.rendering.console import err_console, out_console
    from ftadvise.rendering.offers_view import best_offer, offers_view
    from ftadvise.rendering.texts import text

    best = best_offer(offers)
    if as_json:
        print_json(offers.to_json())
    else:
        out_console().print(offers_view(offers, lang))
    if best is None:
        raise NothingFitsError(f"no single GPU can train {offers.model.id} like this", hint='name several: --gpu "2x H200"')
    if not as_json:
        words = text("offers.next", lang, model=offers.model.id, gpu=best.gpu.name, seq_len=offers.seq_len)
        err_console().print(words, style="dim", soft_wrap=True)


def _demo_examples() -> int:
    from ftadvise.estimator.data_settings import DataSettings
    from ftadvise.runner.data import load_rows

    return len(load_rows(DataSettings()).rows)


def _write(path: Path, plan_file: Any) -> Path | None:
    """Write the plan file; an older plan in its place is kept as `.bak`, anything else is not touched.

    Raises:
        InputError: a file that is not a plan is in the way.
    """
    from ftadvise.estimator.plan_file import write_plan_file

    check_replaceable(path, "schema: ftadvise.plan-file/", "plan file", "-o")
    backup = keep_old(path)
    write_plan_file(path, plan_file)
    return backup
