"""What was measured on this machine, beside what its data sheet led us to expect."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ftadvise.estimator.calibration import Calibration, Device, DeviceCalibration, RunRecord
from ftadvise.estimator.calibration_store import calibration_path, load_calibration
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.speed.calibrated import calibration_is_off
from ftadvise.estimator.speed.device_rates import rates_of
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.hardware import Hardware
from ftadvise.rendering.texts import text
from ftadvise.rendering.units import gib, rate

_NEWEST_RUNS = 8
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1.0, ""))


class Figure(NamedTuple):
    """One line: `name` with what it is of ("bf16", "forward", ""), measured and expected in `unit`, and the data sheet's peak."""

    name: str
    of: str
    unit: str
    measured: float
    expected: float | None
    peak: float | None = None


def calibration_json(hardware: Hardware) -> dict[str, Any]:
    """`ftadvise.calibrate/1`: the store, and what of it applies to this machine now."""
    stored = load_calibration()
    here = stored.of(Device.of(hardware))
    return {
        "schema": "ftadvise.calibrate/1",
        "path": str(calibration_path()),
        "applies": here is not None and not calibration_is_off(),
        "calibration": None if here is None else dataclasses.asdict(here),
        "figures": [] if here is None else [figure._asdict() for figure in figures(here, hardware)],
        "checks": [dataclasses.asdict(run) for run in _checks(stored, here)],
        "other_devices": [dataclasses.asdict(each) for each in stored.devices if each != here],
        "runs": [dataclasses.asdict(run) for run in stored.runs if run.kind == "run"],
    }


def calibration_view(hardware: Hardware, lang: str) -> RenderableType:
    """The figures of this machine, its check, the newest runs, and whether all that is used."""
    stored = load_calibration()
    here = stored.of(Device.of(hardware))
    blocks: list[RenderableType] = []
    if here is None:
        blocks.append(Text(text("calibrate.not_here", lang)))
    else:
        blocks += [_title(here, lang), _figures(list(figures(here, hardware)), lang)]
        if checks := _checks(stored, here):
            blocks += [Text(text("calibrate.checks", lang), style="bold"), _runs(checks, lang)]
    runs = [run for run in stored.runs if run.kind == "run"][-_NEWEST_RUNS:]
    if runs:
        blocks += [Text(text("calibrate.runs", lang, count=len(runs)), style="bold"), _runs(runs, lang)]
    others = [each for each in stored.devices if each != here]
    blocks += [Text(text("calibrate.other", lang, device=_words(each.device), date=each.created[:10]), style="dim") for each in others]
    if calibration_is_off():
        blocks.append(Text(text("calibrate.off", lang), style="yellow"))
    elif here is not None:
        blocks.append(Text(text("calibrate.used", lang)))
    if stored != Calibration():
        blocks.append(Text(text("calibrate.path", lang, path=calibration_path()), style="dim", overflow="fold"))
    return Group(*blocks)


def figures(calibration: DeviceCalibration, hardware: Hardware) -> Iterator[Figure]:
    """Every measured figure; expected is what would be used without it."""
    derived, gpu = rates_of(hardware), hardware.gpu
    peaks: Mapping[str, float | None] = {}
    if gpu is not None:
        rated = (gpu.fp32_flops_per_s, gpu.tf32_flops_per_s, gpu.fp16_flops_per_s, gpu.bf16_flops_per_s)
        peaks = dict(zip(("fp32", "tf32", "fp16", "bf16"), rated, strict=True))

    def of_each(name: str, unit: str, of_peak: Mapping[str, float | None] = {}) -> Iterator[Figure]:
        expected: Mapping[str, float] = getattr(derived, name) if derived else {}
        for key, value in getattr(calibration, name).items():
            yield Figure(name, key, unit, value, expected.get(key), of_peak.get(key))

    yield from of_each("matmul_flops_per_s", "FLOP/s", peaks)
    if (bandwidth := calibration.bandwidth_bytes_per_s) is not None:
        expected = derived.bandwidth_bytes_per_s if derived else None
        yield Figure("bandwidth_bytes_per_s", "", "B/s", bandwidth, expected, gpu.bandwidth_bytes_per_s if gpu else None)
    yield from of_each("dequantize_bytes_per_s", "B/s")
    yield from of_each("attention_share", "share")
    if calibration.kernel_s is not None:
        yield Figure("kernel_s", "", "s", calibration.kernel_s, derived.kernel_s if derived else None)
    yield from of_each("host_s", "s")
    if calibration.context_bytes is not None:
        yield Figure("context_bytes", "", "B", calibration.context_bytes, None)


def _title(here: DeviceCalibration, lang: str) -> Text:
    return Text(text("calibrate.title", lang, device=_words(here.device), date=here.created[:16].replace("T", " ")), style="bold")


def _words(device: Device) -> str:
    size = gib(device.memory_bytes) if device.kind == "cuda" else f"{device.cores} x CPU"
    return ", ".join(filter(None, (device.name, size, device.driver, f"torch {device.torch}")))


def _figures(rows: list[Figure], lang: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(text("calibrate.figure", lang))
    rated = any(row.peak for row in rows)
    for key in ("measured", "expected", *(["of_peak"] if rated else [])):
        table.add_column(text(f"calibrate.{key}", lang), justify="right")
    for row in rows:
        name = text(f"calibrate.{row.name}", lang)
        share = f"{100 * row.measured / row.peak:.0f} %" if row.peak else ""
        expected = "-" if row.expected is None else _amount(row.expected, row.unit)
        table.add_row(f"{name} {row.of}".rstrip(), _amount(row.measured, row.unit), expected, *([share] if rated else []))
    return table


def _amount(value: float, unit: str) -> str:
    if unit == "share":
        return f"{100 * value:.0f} %"
    if unit == "B":
        return gib(value)
    if unit == "s":
        return f"{1e6 * value:.1f} µs"
    scale, prefix = next(((scale, prefix) for scale, prefix in _PREFIXES if value >= scale), (1.0, ""))
    digits = max(0, 2 - int(math.log10(max(1.0, value / scale))))
    return f"{value / scale:.{digits}f} {prefix}{unit}"


def _checks(stored: Calibration, here: DeviceCalibration | None) -> list[RunRecord]:
    if here is None:
        return []
    return [run for run in stored.runs if run.kind == "calibration" and run.rates == here.created and run.device == here.device]


def _runs(runs: list[RunRecord], lang: str) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for run in runs:
        speeds = {"measured": rate(run.measured_tokens_per_second), "predicted": rate(run.predicted_tokens_per_second)}
        ratio = f"{run.measured_tokens_per_second / run.predicted_tokens_per_second:.2f}"
        model = "" if run.kind == "calibration" else run.model
        table.add_row("", _label(run), model, text("calibrate.speeds", lang, **speeds, ratio=ratio))
    return table


def _label(run: RunRecord) -> str:
    try:
        recipe = Recipe.from_dict(dict(run.recipe))
    except (InputError, TypeError):  # of another version, or edited
        return "?"
    return f"{recipe.label}, {recipe.compute_dtype}"
