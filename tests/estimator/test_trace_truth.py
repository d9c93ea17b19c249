"""The trace against what was measured: published A100 peaks, and real training steps metered on this CPU."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

from ftadvise.estimator.activations import Batch
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.stack import stack_of
from ftadvise.estimator.trace import trace
from ftadvise.profiles.hardware import Cpu, Hardware
from ftadvise.profiles.model_config import spec_from_config
from ftadvise.profiles.resolve_gpu import resolve_gpus
from ftadvise.profiles.resolve_model import resolve_model

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "benchmarks" / "data" / "memory_measurements.csv"
CPU = Hardware((), Cpu("any", 2, 2, supports_bf16=False, supports_amx=False), 16 << 30, 16 << 30, "named")

# acceleration column: k-bit casts, autocast (column amp)
SOFTWARE = {"none": ("none", False), "accelerated-peft-bnb": ("none", True), "baseline-peft-bnb": ("norms", True)}


@pytest.mark.parametrize("number", [8, 32, 56, 76])
def test_published_peaks_of_mistral_7b_are_met_within_a_third_of_a_per_cent(number: int) -> None:
    with ROWS.open(newline="", encoding="utf-8") as file:
        row = next(row for row in csv.DictReader(file) if row["id"] == f"fms-a100_80gb-24bdadb-{number}")
    casts, autocast = SOFTWARE[row["acceleration"]]
    quantized = row["method"] == "qlora"
    recipe = Recipe(
        method="full" if row["method"] == "full" else "lora",
        quantization="nf4" if quantized else "none",
        double_quantization=quantized,
        rank=16,
        alpha=16,
        dropout=0.1,
        target_modules=("q_proj", "k_proj", "v_proj", "o_proj"),
        micro_batch=int(row["micro_batch_size"]),
        gradient_accumulation=1,
        seq_len=4096,
        packing=True,
        attention="flash_attention_2",
        loss="full",
    )
    a100 = Hardware(resolve_gpus("A100-80GB"), CPU.cpu, 16 << 30, 16 << 30, "named")
    stack = dataclasses.replace(stack_of("transformers==4.48.1"), kbit_upcast=casts, reentrant_checkpoints=False)
    result = trace(resolve_model(row["model"]), a100, recipe, stack, autocast=autocast)
    assert result.peak_allocated_bytes == pytest.approx(float(row["peak_mem_gib_norm"]) * 2**30, rel=0.0033)


_SIZES: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 2048,
    "tie_word_embeddings": False,
}


@pytest.mark.train
@pytest.mark.parametrize(
    "changes",
    [
        {"compute_dtype": "bf16", "gradient_checkpointing": True},
        {"quantization": "nf4", "double_quantization": True, "adapter_dtype": "bf16"},
        {"method": "full", "compute_dtype": "bf16"},
        {"gradient_accumulation": 2},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())),
)
@pytest.mark.parametrize("padded", [False, True])
def test_metered_cpu_steps_are_met_within_a_tenth_of_a_per_cent(changes: dict[str, Any], padded: bool, tmp_path: Path) -> None:
    plain = Recipe(compute_dtype="fp32", micro_batch=2, seq_len=128, gradient_accumulation=1, gradient_checkpointing=False, max_steps=2)
    recipe = plain.replace(**changes)
    (tmp_path / "config.json").write_text(json.dumps(_SIZES), encoding="utf-8")
    measured = _metered(tmp_path, recipe, padded=padded)
    spec = dataclasses.replace(spec_from_config(_SIZES, source="tiny"), local_path=str(tmp_path))
    result = trace(spec, CPU, recipe, stack_of("trl"), batch=Batch(*measured.padded_tokens, masked=padded))
    assert result.peak_allocated_bytes == pytest.approx(measured.peak_allocated_bytes, rel=0.001)
    assert result.peak_phase == measured.peak_phase


def _metered(folder: Path, recipe: Recipe, *, padded: bool) -> Any:
    """Two optimizer steps of our own runner under its meter."""
    from ftadvise.runner.adapters import wrap_with_adapter
    from ftadvise.runner.load_model import load_model
    from ftadvise.runner.meter import MeterCallback, make_meter
    from ftadvise.runner.quiet import ignoring, quiet_libraries
    from ftadvise.runner.rehearse import random_checkpoint, synthetic_rows, synthetic_tokenizer
    from ftadvise.runner.trainer import build_trainer

    rows = synthetic_rows(_SIZES["vocab_size"], recipe.seq_len, recipe.sequences_per_step * recipe.max_steps, recipe.seed)
    if padded:
        rows = [{k: v[: len(v) - 7 * (i % 2)] for k, v in row.items()} for i, row in enumerate(rows)]
    with quiet_libraries(), ignoring(".*"):
        with random_checkpoint(folder, recipe, folder) as weights:
            model = wrap_with_adapter(load_model(weights, recipe, "cpu"), recipe, "tiny")
        trainer = build_trainer(model, synthetic_tokenizer(_SIZES["vocab_size"]), rows, recipe, "cpu", folder / "out", save=False)
        meter = make_meter(trainer.model, "cpu")
        trainer.add_callback(MeterCallback(meter))
        trainer.train()
    return meter.result()
