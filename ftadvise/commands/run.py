"""`ftadvise run`."""

from __future__ import annotations

from pathlib import Path

import click

from ftadvise.commands.options import calibration_option, json_option, lang_option, language, print_json


@click.command("run")
@click.argument("plan", type=click.Path(path_type=Path), default=Path("ftadvise-plan.yaml"))
@click.option("--out", type=click.Path(path_type=Path), help="The run folder (default: ftadvise-runs/<model>-<recipe>).")
@click.option("--dry-run", is_flag=True, help="Check everything, train nothing.")
@click.option("--rehearse", is_flag=True, help="Random weights, a few steps: measure memory and speed before downloading anything.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run in its folder.")
@click.option("--max-steps", type=click.IntRange(min=1), help="Optimizer steps instead of the plan's.")
@click.option("--fail-on-miss", type=click.FloatRange(min=0), metavar="PERCENT", help="Exit 4 when the peak was predicted worse than this.")
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that comes with the model. Off unless asked for.")
@calibration_option
@json_option
@lang_option
def command(
    plan: Path,
    out: Path | None,
    dry_run: bool,
    rehearse: bool,
    resume: bool,
    max_steps: int | None,
    fail_on_miss: float | None,
    trust_remote_code: bool,
    as_json: bool,
    lang: str | None,
) -> None:
    """Execute PLAN (default: ftadvise-plan.yaml): train, measure the first steps, save the adapter, and show predicted beside measured."""
    from ftadvise import api
    from ftadvise.estimator.plan_file import read_plan_file

    plan_file = read_plan_file(plan)
    out_dir = out or api.default_run_folder(plan_file)
    from ftadvise.profiles.probe import probe
    from ftadvise.rendering.console import err_console, out_console

    if dry_run:
        from ftadvise.runner.train import check_run

        check_run(plan_file, hardware=probe(), out_dir=out_dir, resume=resume, rehearse=rehearse)
        err_console().print(f"{plan}: nothing stands in the way; {plan_file.recipe.label} of {plan_file.model_id} would go to {out_dir}")
        return
    from ftadvise.profiles.errors import FtadviseError
    from ftadvise.runner.train import run_plan

    try:
        report = run_plan(
            plan_file,
            out_dir=out_dir,
            hardware=probe(),
            resume=resume,
            rehearse=rehearse,
            max_steps=max_steps,
            trust_remote_code=trust_remote_code,
            console=err_console(),
        )
    except FtadviseError as error:  # the runner knows the plan, but not the file it came from
        error.hint = error.hint and error.hint.replace("run PLAN", f"run {plan}")
        raise
    if as_json:
        print_json(report.to_json())
    else:
        from ftadvise.rendering.report_view import report_view

        out_console().print(report_view(report, language(lang)))
        err_console().print(f"run folder: {out_dir}", style="dim", highlight=False)
    if fail_on_miss is not None:
        from ftadvise.runner.report import fail_on_miss as check

        check(report, fail_on_miss)
