"""Options that several commands share. The recipe's flags carry the names of Recipe's fields with dashes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from ftadvise.estimator import recipe as words

_F = TypeVar("_F", bound=Callable[..., Any])

_METHODS = ("lora", "qlora", *(name for name in get_args(words.Method) if name != "lora"))

# flag, type, help. A bool gives --flag/--no-flag.
RECIPE_FLAGS: tuple[tuple[str, Any, str], ...] = (
    ("method", click.Choice(_METHODS), "qlora = lora on an NF4 base with double quantisation"),
    ("quantization", click.Choice(get_args(words.Quantization)), "of the frozen base"),
    ("double-quantization", bool, "quantise the quantisation constants too"),
    ("compute-dtype", click.Choice(get_args(words.Dtype)), "of weights, activations and products"),
    ("adapter-dtype", click.Choice(get_args(words.Dtype)), "of the adapter weights"),
    ("rank", int, "LoRA rank"),
    ("alpha", int, "LoRA scaling numerator (default: twice the rank)"),
    ("rslora", bool, "scale LoRA by alpha / sqrt(rank) instead of alpha / rank"),
    ("dropout", float, "LoRA dropout"),
    ("target-modules", str, "all-linear, or names separated by commas"),
    ("high-precision-modules", str, "names that stay unquantised, separated by commas"),
    ("micro-batch", int, "sequences per GPU and forward pass"),
    ("gradient-accumulation", int, "micro batches per optimizer step"),
    ("seq-len", int, "tokens per sequence, at most"),
    ("packing", bool, "join short sequences to full length"),
    ("gradient-checkpointing", bool, "recompute activations in backward"),
    ("attention", click.Choice(get_args(words.Attention)), "attention implementation"),
    ("loss", click.Choice(get_args(words.Loss)), "loss implementation"),
    ("optimizer", click.Choice(get_args(words.Optimizer)), "optimizer"),
    ("sharding", click.Choice(get_args(words.Sharding)), "over several GPUs"),
    ("offload", click.Choice(get_args(words.Offload)), "to CPU memory"),
    ("learning-rate", float, "peak learning rate"),
    ("schedule", click.Choice(("linear", "cosine", "constant")), "learning-rate schedule"),
    ("warmup-ratio", float, "share of the steps"),
    ("max-grad-norm", float, "gradient clipping"),
    ("epochs", float, "passes over the data"),
    ("max-steps", int, "optimizer steps instead of epochs"),
    ("seed", int, "random seed"),
)


def recipe_options(command: _F) -> _F:
    """Add every recipe flag to a command; those not given arrive as None."""
    for name, kind, text in reversed(RECIPE_FLAGS):
        flag = f"--{name}/--no-{name}" if kind is bool else f"--{name}"
        command = click.option(flag, type=None if kind is bool else kind, default=None, help=text)(command)
    return command


def recipe_fields(options: dict[str, Any]) -> dict[str, Any]:
    """The recipe fields among a command's options that were given."""
    fields: dict[str, Any] = {}
    for name, _, _ in RECIPE_FLAGS:
        key = name.replace("-", "_")
        value = options.get(key)
        if value is None:
            continue
        if key in ("target_modules", "high_precision_modules"):
            value = tuple(part.strip() for part in value.split(",") if part.strip())
        fields[key] = value
    return fields


def language(value: str | None) -> str:
    """The language of the output: --lang, else FTADVISE_LANG or the locale when it is Chinese, else English."""
    for candidate in (value, *(os.environ.get(name) for name in ("FTADVISE_LANG", "LC_ALL", "LC_MESSAGES", "LANG"))):
        if candidate:
            return "zh" if candidate.lower().startswith("zh") else "en"
    return "en"


def cost_options(command: _F) -> _F:
    """Add --price and --electricity."""
    electricity = "US dollars per kWh, for a card of your own (its price is then 0 unless you give one)."
    command = click.option("--electricity", type=float, metavar="USD", help=electricity)(command)
    price = "US dollars per GPU and hour instead of the list price; 0 for a card of your own."
    return click.option("--price", type=float, metavar="USD", help=price)(command)


def json_option(command: _F) -> _F:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")(command)


def lang_option(command: _F) -> _F:
    """Add --lang."""
    text = "Language of the output (default: the locale's)."
    return click.option("--lang", type=click.Choice(["en", "zh"]), default=None, help=text)(command)


def rules_option(command: _F) -> _F:
    """Add --rules, which may be given again and again."""
    text = "A file with rules of your own (docs/rules.md); may be repeated."
    return click.option("--rules", multiple=True, metavar="FILE", type=click.Path(path_type=Path), help=text)(command)


def calibration_option(command: _F) -> _F:
    """Add --no-calibration; it holds for the rest of the command."""

    def switch_off(ctx: click.Context, _param: click.Parameter, given: bool) -> None:
        if given:
            from ftadvise.estimator.speed.calibrated import without_calibration

            ctx.with_resource(without_calibration())

    text = "Leave out what was measured on this machine, and do not add to it."
    return click.option("--no-calibration", is_flag=True, expose_value=False, callback=switch_off, help=text)(command)


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(document, ensure_ascii=False, indent=2))
