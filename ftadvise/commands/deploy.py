"""`ftadvise deploy`."""

from __future__ import annotations

from pathlib import Path

import click

from ftadvise.commands.options import json_option, lang_option, language, print_json


@click.command("deploy")
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--to", "target", required=True, metavar="NAME", help="gguf, ollama, vllm, gptq or onnx.")
@click.option("--output", "-o", metavar="DIR", type=click.Path(path_type=Path), help="Folder for the files (default: RUN/deploy/NAME).")
@click.option("--quantization", metavar="KIND", help="q4_k_m, q8_0, f16, ... for gguf and ollama; nf4 for vllm; int8 for onnx.")
@click.option("--tenants", type=click.IntRange(1, 100_000), default=1, show_default=True, help="Adapters on the same base.")
@click.option(
    "--context", type=click.IntRange(1), default=None, metavar="TOKENS", help="Prompt and answer together (default: at most 4096)."
)
@click.option("--concurrent", type=click.IntRange(1), default=1, show_default=True, help="Sequences answered at once.")
@click.option("--gpu", metavar="NAME", help="The card that will serve (default: this machine's).")
@click.option("--force", is_flag=True, help="Replace what is in the folder.")
@json_option
@lang_option
def command(
    run_dir: Path,
    target: str,
    output: Path | None,
    quantization: str | None,
    tenants: int,
    context: int | None,
    concurrent: int,
    gpu: str | None,
    force: bool,
    as_json: bool,
    lang: str | None,
) -> None:
    """Make the finished run in RUN_DIR ready for a server, with the memory that serving will take.

    What can be done here is done; what cannot is printed as lines to copy.
    """
    from ftadvise.runner.supported import check_installed

    check_installed()
    from ftadvise.estimator.inference import Serving
    from ftadvise.profiles.probe import named_hardware, probe
    from ftadvise.rendering.chinese import in_language
    from ftadvise.rendering.console import err_console, out_console
    from ftadvise.rendering.deploy_view import show_deployment
    from ftadvise.runner.deploy import check_target, deploy_run
    from ftadvise.runner.quiet import no_telemetry

    no_telemetry()
    chosen, console = language(lang), err_console()
    check_target(target)
    deployment = deploy_run(
        run_dir,
        target,
        out_dir=output,
        quantization=quantization,
        tenants=tenants,
        serving=Serving(context, concurrent) if context is not None else None,
        concurrent=concurrent,
        gpu=(named_hardware(gpu) if gpu else probe()).gpu,
        force=force,
        say=lambda line: console.print(in_language(line, chosen), markup=False, highlight=False, style="dim"),
    )
    if as_json:
        print_json(deployment.to_json())
        return
    show_deployment(deployment, out_console(), chosen)
