"""The lists of GPUs and models."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ftadvise.profiles.hardware import Gpu
from ftadvise.profiles.model_spec import ModelSpec
from ftadvise.rendering.texts import text
from ftadvise.rendering.units import count, gib


def gpus_view(gpus: Sequence[Gpu], lang: str) -> RenderableType:
    """Name, memory, bandwidth, bf16 rate, price; a ? marks what no opened source confirms."""
    table = _table(lang, ("gpu", "memory", "bandwidth", "bf16", "price"))
    for gpu in gpus:
        bandwidth = "-" if gpu.bandwidth_bytes_per_s is None else f"{gpu.bandwidth_bytes_per_s / 1e9:,.0f} GB/s"
        bf16 = "-" if gpu.bf16_flops_per_s is None else f"{gpu.bf16_flops_per_s / 1e12:,.0f} TFLOPS"
        price = "-" if gpu.price_usd_per_hour is None else f"{gpu.price_usd_per_hour:.2f}"
        marks = gpu.unconfirmed
        table.add_row(
            gpu.name,
            gib(gpu.memory_bytes) + _mark("memory_bytes", marks),
            bandwidth + _mark("bandwidth_bytes_per_s", marks),
            bf16 + _mark("bf16_flops_per_s", marks),
            price + _mark("price_usd_per_hour", marks),
        )
    return Group(table, Text(text("catalogue.unconfirmed", lang), style="dim"))


def models_view(models: Sequence[ModelSpec], lang: str) -> RenderableType:
    """Name, parameters, layers, width, vocabulary, licence; a ? marks what no opened source confirms."""
    table = _table(lang, ("model", "parameters", "layers", "width", "vocabulary", "license"))
    for model in models:
        marks = model.unconfirmed
        table.add_row(
            model.id,
            count(model.total_params) + _mark("total_params", marks),
            str(model.num_layers) + _mark("num_layers", marks),
            f"{model.hidden_size:,}" + _mark("hidden_size", marks),
            f"{model.vocab_size:,}" + _mark("vocab_size", marks),
            model.license or "-",
        )
    return Group(table, Text(text("catalogue.unconfirmed", lang), style="dim"))


def _mark(name: str, unconfirmed: tuple[str, ...]) -> str:
    return " ?" if name in unconfirmed or ("*" in unconfirmed and name != "total_params") else ""


def _table(lang: str, columns: tuple[str, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, key in enumerate(columns):
        table.add_column(text(f"catalogue.{key}", lang), justify="left" if index == 0 else "right", overflow="fold")
    return table
