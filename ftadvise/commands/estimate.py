"""`ftadvise estimate`."""

from __future__ import annotations

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
)


@click.command("estimate")
@click.option("--model", "-m", help="Hub id, short name, local folder or GGUF file (default: the embedded SmolLM2-135M-Instruct).")
@click.option("--gpu", "-g", help='A GPU by name; "cpu" for none (default: this machine).')
@click.option("--stack", default="trl", show_default=True, help="The training code: trl (our runner), unsloth, trl==1.10, ...")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Price a LLaMA-Factory, Axolotl or TRL configuration on its own stack; flags override it.",
)
@click.option("--trace", is_flag=True, help="Run real steps on the meta device: seconds, no GPU, needs ftadvise[run].")
@click.option("--expandable-segments", is_flag=True, help="With --trace: the allocator's expandable segments.")
@click.option("--timeline", type=click.Path(dir_okay=False), help="With --trace: write allocated memory over time to this CSV file.")
@click.option("--data", metavar="DATA", help=f"{DATA_HELP}; its longest example is --seq-len, its average batch the time.")
@data_options
@cost_options
@recipe_options
@calibration_option
@json_option
@lang_option
def command(
    model: str | None,
    gpu: str | None,
    stack: str,
    config: Path | None,
    trace: bool,
    expandable_segments: bool,
    timeline: str | None,
    data: str | None,
    price: float | None,
    electricity: float | None,
    as_json: bool,
    lang: str | None,
    **options: Any,
) -> int:
    """Price exactly one recipe: peak memory by component and phase, speed, cost, and whether it fits. Exit code 3 when it does not.

    --data with --epochs, or --max-steps, tell how long the training is.
    """
    from ftadvise import api
    from ftadvise.estimator.cost import Job

    fields, reading = recipe_fields(options), None
    if config is not None:
        from ftadvise.commands.configuration import read_configuration

        said = click.get_current_context().get_parameter_source("stack") is click.core.ParameterSource.COMMANDLINE
        reading = read_configuration(config, model=model, gpu=gpu, stack=stack if said else None, fields=fields)
        model, stack, fields = reading.model, reading.stack, reading.fields
    settings = data_settings(data, take_data_fields(options))
    lengths = api.data_lengths(settings, model) if data else None
    result = api.estimate(
        model,
        gpu=gpu,
        stack=stack,
        trace=trace,
        expandable_segments=expandable_segments,
        timeline=timeline,
        lengths=lengths,
        job=Job(price_usd_per_gpu_hour=price, electricity_usd_per_kwh=electricity),
        **fields,
    )
    if as_json:
        read = reading.to_json(result) if reading else {}
        print_json(result.to_json() | ({"data": lengths.to_json(result.recipe)} if lengths else {}) | read)
    else:
        from ftadvise.rendering.console import out_console
        from ftadvise.rendering.estimate_view import estimate_view

        console, chosen = out_console(), language(lang)
        if reading:
            console.print(reading.view(chosen))
        console.print(estimate_view(result, chosen, lengths))
        if reading:
            console.print(reading.advice_view(result, chosen))
    return 0 if result.memory.fits else 3
