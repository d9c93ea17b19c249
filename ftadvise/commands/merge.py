"""`ftadvise merge`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import cast, get_args

import click

from ftadvise.commands.options import json_option, lang_option, language, print_json
from ftadvise.estimator.recipe import Dtype


@click.command("merge")
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The folder to write, which must be new (default: RUN/merged).")
@click.option("--dtype", type=click.Choice(get_args(Dtype)), help="Of the merged weights (default: the run's compute dtype).")
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that comes with the model. Off unless asked for.")
@json_option
@lang_option
def command(run_dir: Path, output: Path | None, dtype: str | None, trust_remote_code: bool, as_json: bool, lang: str | None) -> None:
    """Merge the adapter that RUN trained into its base: a plain safetensors model with tokenizer and card, which needs no PEFT.

    It runs on the CPU. An adapter trained on a quantised base goes into the base's own weights. Before the folder has its name, the
    written model is read back and its answers are compared with the adapter's.
    """
    from ftadvise.rendering.console import err_console, out_console
    from ftadvise.runner.cpu_process import share_cores

    console = err_console()

    def say(line: str) -> None:
        console.print(line, style="dim", markup=False)

    share_cores()
    from ftadvise.runner.finished_run import finished_run
    from ftadvise.runner.merge import merge_run

    run = finished_run(run_dir, say=say)
    merged = merge_run(run, output or run_dir / "merged", dtype=cast("Dtype | None", dtype), trust_remote_code=trust_remote_code, say=say)
    if as_json:
        print_json({"schema": "ftadvise.merge/1", **dataclasses.asdict(merged), "folder": str(merged.folder)})
    else:
        from ftadvise.rendering.merge_view import merge_view

        out_console().print(merge_view(merged, language(lang)), soft_wrap=True)
