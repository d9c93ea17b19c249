"""`ftadvise run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftadvise.commands.options import calibration_option, json_option, lang_option, language, print_json

if TYPE_CHECKING:
    from ftadvise.estimator.plan_file import PlanFile
    from ftadvise.profiles.hardware import Hardware
    from ftadvise.runner.report import RunReport


@click.command("run")
@click.argument("plan", type=click.Path(path_type=Path), default=Path("ftadvise-plan.yaml"))
@click.option("--out", type=click.Path(path_type=Path), help="The run folder (default: ftadvise-runs/<model>-<recipe>).")
@click.option("--dry-run", is_flag=True, help="Check everything, show the arguments of every library call, train nothing.")
@click.option("--rehearse", is_flag=True, help="Random weights, a few steps: measure memory and speed before downloading anything.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run in its folder.")
@click.option("--max-steps", type=click.IntRange(min=1), help="Optimizer steps instead of the plan's.")
@click.option("--no-fallback", is_flag=True, help="Out of memory ends the run, instead of going on with a smaller micro batch.")
@click.option("--force", is_flag=True, help="Run although the estimate says that it cannot fit.")
@click.option("--processes", type=click.IntRange(min=1), help="Processes on this machine (default: its GPUs, when the plan shards).")
@click.option("--nodes", type=click.IntRange(min=1), default=1, help="Machines that train together; run the same command on each.")
@click.option("--node-rank", type=click.IntRange(min=0), default=0, help="Which of them this is, from 0.")
@click.option("--rendezvous", metavar="HOST:PORT", help="Where they meet: an address of the first machine and a free port.")
@click.option("--track", multiple=True, metavar="TRACKER", help="Log to tensorboard, trackio or wandb as well. Nothing unless asked for.")
@click.option("--fail-on-miss", type=click.FloatRange(min=0), metavar="PERCENT", help="Exit 4 when the peak was predicted worse than this.")
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that comes with the model. Off unless asked for.")
@click.option("--allow-pickle", is_flag=True, help="Convert a model that is there as pickle only. Off unless asked for.")
@calibration_option
@json_option
@lang_option
def command(
    plan: Path,
    out: Path | None,
    dry_run: bool,
    resume: bool,
    rehearse: bool,
    max_steps: int | None,
    force: bool,
    no_fallback: bool,
    processes: int | None,
    nodes: int,
    node_rank: int,
    rendezvous: str | None,
    track: tuple[str, ...],
    fail_on_miss: float | None,
    trust_remote_code: bool,
    allow_pickle: bool,
    as_json: bool,
    lang: str | None,
) -> None:
    """Execute PLAN (default: ftadvise-plan.yaml): train, measure, save the result, and show predicted beside measured."""
    from ftadvise import api
    from ftadvise.estimator.plan_file import read_plan_file
    from ftadvise.profiles.errors import FtadviseError
    from ftadvise.rendering.console import err_console

    plan_file = read_plan_file(plan)
    options: dict[str, Any] = {"resume": resume, "rehearse": rehearse, "max_steps": max_steps, "force": force}
    out_dir = out or api.default_run_folder(plan_file)
    from ftadvise.profiles.probe import probe
    from ftadvise.runner.launch import Launch

    hardware = probe()
    launch = Launch.of(plan_file.recipe, hardware, processes=processes, nodes=nodes, node_rank=node_rank, rendezvous=rendezvous)
    if dry_run:
        together = launch.together(hardware)
        _dry_run(plan, plan_file, together, out_dir, as_json, lang, track=track, trust_remote_code=trust_remote_code, options=options)
        return
    from ftadvise.runner.supervisor import run_plan

    asked: dict[str, Any] = {"trust_remote_code": trust_remote_code, "allow_pickle": allow_pickle}
    if launch.node_rank > 0:
        from ftadvise.runner.node import follow_run

        follow_run(plan_file, out_dir=out_dir, hardware=hardware, launch=launch, **asked, **options)
        return
    try:
        report = run_plan(
            plan_file,
            out_dir=out_dir,
            hardware=hardware,
            **asked,
            fallback=not no_fallback,
            track=track,
            launch=launch,
            lang=language(lang),
            console=err_console(),
            **options,
        )
    except FtadviseError as error:  # the runner knows the plan, but not the file it came from
        error.hint = error.hint and error.hint.replace("run PLAN", f"run {plan}")
        raise
    _show(report, out_dir, as_json, lang)
    if fail_on_miss is not None:
        from ftadvise.runner.report import fail_on_miss as check

        check(report, fail_on_miss)


def _dry_run(
    plan: Path,
    plan_file: PlanFile,
    hardware: Hardware,
    out_dir: Path,
    as_json: bool,
    lang: str | None,
    *,
    track: tuple[str, ...],
    trust_remote_code: bool,
    options: dict[str, Any],
) -> None:
    from ftadvise.rendering.console import err_console, out_console
    from ftadvise.rendering.dry_run_view import dry_run_document, dry_run_view
    from ftadvise.runner.data import load_rows
    from ftadvise.runner.resolved_calls import resolved_calls
    from ftadvise.runner.supervisor import check_run

    recipe = check_run(plan_file, hardware=hardware, out_dir=out_dir, **options)
    rows = load_rows(plan_file.data)
    device = "cpu" if hardware.gpu is None else "cuda"
    calls = resolved_calls(plan_file, recipe, device, out_dir=out_dir, trust_remote_code=trust_remote_code, track=track)
    if as_json:
        print_json(dry_run_document(calls, model=plan_file.model_id, recipe=recipe.to_dict(), run_folder=str(out_dir)))
        return
    out_console().print(dry_run_view(calls, language(lang)))
    said = f"{plan}: nothing stands in the way; {recipe.label} of {plan_file.model_id} on {len(rows.rows)} rows would go to {out_dir}"
    err_console().print(said, markup=False, highlight=False)


def _show(report: RunReport, out_dir: Path, as_json: bool, lang: str | None) -> None:
    from ftadvise.rendering.console import err_console, out_console
    from ftadvise.rendering.report_page import write_report_page
    from ftadvise.rendering.report_view import report_view

    write_report_page(report, out_dir / "report.html", language(lang))
    if as_json:
        print_json(report.to_json())
        return
    out_console().print(report_view(report, language(lang)))
    err_console().print(f"run folder: {out_dir}", style="dim", highlight=False)
