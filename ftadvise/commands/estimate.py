"""`ftadvise estimate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ftadvise.commands.options import json_option, lang_option, language, print_json, recipe_fields, recipe_options


@click.command("estimate")
@click.option("--model", "-m", help="Hub id, short name, local folder or GGUF file (default: the embedded SmolLM2-135M-Instruct).")
@click.option("--gpu", "-g", help='A GPU by name; "cpu" for none (default: this machine).')
@click.option("--stack", default="trl", show_default=True, help="The training code: trl (our runner), unsloth, trl==1.10, ...")
@click.option("--trace", is_flag=True, help="Run real steps on the meta device: seconds, no GPU, needs ftadvise[run].")
@click.option("--expandable-segments", is_flag=True, help="With --trace: the allocator's expandable segments.")
@click.option("--timeline", type=click.Path(dir_okay=False), help="With --trace: write allocated memory over time to this CSV file.")
@click.option(
    "--data", type=click.Path(path_type=Path), help="Training data: its longest example is --seq-len, its average batch the time."
)
@recipe_options
@json_option
@lang_option
def command(
    model: str | None,
    gpu: str | None,
    stack: str,
    trace: bool,
    expandable_segments: bool,
    timeline: str | None,
    data: Path | None,
    as_json: bool,
    lang: str | None,
    **options: Any,
) -> int:
    """Price exactly one recipe: peak memory by component and phase, speed, and whether it fits. Exit code 3 when it does not."""
    from ftadvise import api

    lengths = api.data_lengths(data, model) if data else None
    result = api.estimate(
        model,
        gpu=gpu,
        stack=stack,
        trace=trace,
        expandable_segments=expandable_segments,
        timeline=timeline,
        lengths=lengths,
        **recipe_fields(options),
    )
    if as_json:
        print_json(result.to_json() | ({"data": lengths.to_json(result.recipe)} if lengths else {}))
    else:
        from ftadvise.rendering.console import out_console
        from ftadvise.rendering.estimate_view import estimate_view

        out_console().print(estimate_view(result, language(lang), lengths))
    return 0 if result.memory.fits else 3
