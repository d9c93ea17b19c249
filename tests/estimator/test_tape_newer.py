"""The tape of Gemma, experts and latent attention against recorded traces (benchmarks/record_tape_newer.py)."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from ftadvise.estimator.activations import Batch, attention_kernel
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.stack import stack_of
from ftadvise.estimator.tape.build import Setting, StepProfile, step_profile
from ftadvise.estimator.tape.decoders import is_described
from ftadvise.estimator.tape.experts import converted_names
from ftadvise.estimator.tape.profile import QUANTITIES, Vector, quantities
from ftadvise.profiles.model_config import spec_from_config
from ftadvise.profiles.model_spec import ModelSpec

ROWS = list(csv.DictReader((Path(__file__).parent / "data" / "tape_newer.csv").read_text(encoding="utf-8").splitlines()))
WORST, MEDIAN = 0.02, 0.005


def recipe_of(row: dict[str, str]) -> Recipe:
    fields: dict[str, Any] = json.loads(row["recipe"])
    return Recipe(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})


def priced(row: dict[str, str]) -> tuple[ModelSpec, StepProfile, Vector]:
    spec, recipe, stack = spec_from_config(json.loads(row["config"]), source=row["case"]), recipe_of(row), stack_of(row["stack"])
    batch = Batch(recipe.micro_batch, recipe.seq_len, masked=row["masked"] == "1")
    kernel = attention_kernel(spec, recipe, batch, device="cuda", compute_capability=(9, 0))
    windowed = spec.sliding_window is not None and recipe.seq_len >= spec.sliding_window
    profile = step_profile(spec, recipe, stack, Setting(kernel, batch.masked, single=False, like_cuda=True, windowed=windowed))
    loss = stack.loss_kernel(recipe.loss)
    values = quantities(
        sequences=recipe.micro_batch,
        seq_len=recipe.seq_len,
        rank=recipe.rank,
        chunk_tokens=lambda tokens: loss.tokens_per_chunk(tokens, spec.hidden_size, spec.vocab_size),
    )
    return spec, profile, values


def errors(row: dict[str, str]) -> dict[str, float]:
    _, profile, values = priced(row)
    peaks = profile.training.phase_peaks(values)
    return {phase: peaks[phase][0] / int(row[f"{phase}_bytes"]) - 1 for phase in ("forward", "backward")}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["case"])
def test_peaks_are_those_of_the_trace(row: dict[str, str]) -> None:
    assert {phase: error for phase, error in errors(row).items() if abs(error) > WORST} == {}


def test_most_peaks_are_much_closer() -> None:
    assert statistics.median(abs(error) for row in ROWS for error in errors(row).values()) <= MEDIAN


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["case"])
def test_trained_parameters_are_those_of_the_real_model(row: dict[str, str]) -> None:
    """The inventory of adapters or, in full fine-tuning, of every parameter but those that layers do not read."""
    spec, profile, values = priced(row)
    trained = sum(parameter.width * values[QUANTITIES.index(parameter.rows)] * times for parameter, times in profile.trained)
    # biases of k-bit and of gate-like parameters are a handful of elements; heads untied from the embedding are all there
    assert trained == pytest.approx(int(row["trained_parameters"]), rel=0.001)
    assert is_described(spec)


def test_peft_turns_names_of_former_modules_into_parameters() -> None:
    row = next(row for row in ROWS if row["case"] == "qwen3_moe: lora")
    spec, recipe = spec_from_config(json.loads(row["config"]), source="test"), recipe_of(row)
    assert "down_proj" in converted_names(spec, recipe)
    assert converted_names(spec, recipe.replace(target_modules=("q_proj", "v_proj"))) == frozenset()
    assert converted_names(spec, recipe.replace(method="ia3")) == frozenset()
