"""`ftadvise calibrate`."""

from __future__ import annotations

import click

from ftadvise.commands.options import json_option, lang_option, language, print_json


@click.command("calibrate")
@click.option("--show", is_flag=True, help="Show what is stored; measure nothing.")
@click.option("--reset", is_flag=True, help="Remove what is stored: calibrations and records of runs.")
@json_option
@lang_option
def command(show: bool, reset: bool, as_json: bool, lang: str | None) -> None:
    """Measure this GPU, or this CPU, for a minute; plans and estimates for this machine use the figures from then on.

    Matrix products, memory bandwidth, de-quantisation, attention, launch times, then a few steps of a small model with random weights
    as a check. The figures stay in the user's data folder (FTADVISE_DATA_DIR names another), with the speed of every finished run, and
    hold for this very device and these versions of its driver and of torch. FTADVISE_NO_CALIBRATION=1 leaves them out.
    """
    if show and reset:
        raise click.UsageError("--show and --reset exclude each other")
    chosen = language(lang)
    if reset:
        _reset(as_json, chosen)
        return
    from ftadvise.profiles.probe import probe
    from ftadvise.rendering.console import err_console, out_console

    hardware = probe()
    if not show:
        from ftadvise.runner.calibrate import calibrate, check_calibration

        console = err_console()
        calibrate(hardware, console=console)
        check_calibration(hardware, console=console)
    from ftadvise.rendering.calibration_view import calibration_json, calibration_view

    if as_json:
        print_json(calibration_json(hardware))
    else:
        out_console().print(calibration_view(hardware, chosen))


def _reset(as_json: bool, lang: str) -> None:
    from ftadvise.estimator.calibration_store import reset_calibration
    from ftadvise.rendering.console import out_console
    from ftadvise.rendering.texts import text

    stored, path = reset_calibration()
    counts = {"devices": len(stored.devices), "runs": len(stored.runs)}
    if as_json:
        print_json({"schema": "ftadvise.calibrate/1", "removed": None if path is None else {"path": str(path), **counts}})
        return
    line = text("calibrate.nothing", lang) if path is None else text("calibrate.removed", lang, path=path, **counts)
    out_console().print(line, markup=False, soft_wrap=True)
