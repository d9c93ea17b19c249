"""Metered real CPU training steps against the analytic memory model, moment by moment.

Each case is a small model of a real architecture with random weights, trained for two optimizer steps in a fresh process under the
runner's storage meter: by the runner's own code (TRL's SFTTrainer on transformers, peft, bitsandbytes), a few by transformers' Trainer.
Compared, in bytes of live tensors: the largest moments that the model predicts (the loss forward and backward, the layers' backward, the
optimizer step), and the peak.

Run: python benchmarks/cpu_memory.py [--quick] [--only TEXT [--append]] [--listing]
Writes benchmarks/results/cpu_memory.csv (not with --quick or --only). Exit code 1 when a peak is off by more than 1 %.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftadvise.estimator.activations import Batch
from ftadvise.estimator.memory import price_memory
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.stack import stack_of
from ftadvise.profiles.hardware import Cpu, Hardware
from ftadvise.profiles.model_config import spec_from_config

RESULTS = Path(__file__).parent / "results" / "cpu_memory.csv"
LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes")
PEAK_LIMIT = 0.01
CPU = Hardware((), Cpu("any", 2, 2, supports_bf16=False, supports_amx=False), 16 << 30, 16 << 30, "named")

# widths in the proportions of the real models: grouped heads, an MLP about 2.7 times the width
_SIZES = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 2048,
    "max_position_embeddings": 2048,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "llama-tied": {"tie_word_embeddings": True},
    "llama-mha": {"tie_word_embeddings": False, "num_key_value_heads": 8},
    "qwen2": {"tie_word_embeddings": False},
    "llama-wide-vocabulary": {"tie_word_embeddings": False, "vocab_size": 40000, "hidden_size": 64, "intermediate_size": 176},
    "llama-smollm2": {
        "tie_word_embeddings": True,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "vocab_size": 49152,
    },
    "gemma": {"tie_word_embeddings": True},
    "qwen3": {"tie_word_embeddings": True, "head_dim": 64},
}


@dataclass(frozen=True)
class Case:
    """One training run: an architecture, its depth, and what of the recipe differs from the base."""

    name: str
    architecture: str = "llama"
    layers: int = 4
    padded: bool = False
    stack: str = "trl"
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        """LoRA in fp32 on all linear layers, 2 x 128 tokens, unless the case says otherwise."""
        base = Recipe(compute_dtype="fp32", micro_batch=2, seq_len=128, gradient_accumulation=1, gradient_checkpointing=False, max_steps=2)
        return base.replace(**self.changes)

    @property
    def config(self) -> dict[str, Any]:
        """The model's config.json."""
        sizes = _SIZES | ARCHITECTURES[self.architecture]
        return {"model_type": self.architecture.split("-")[0], "num_hidden_layers": self.layers, **sizes}


_CHECKPOINTED = {"gradient_checkpointing": True}
_ATTENTION_ONLY = {"target_modules": ("q_proj", "v_proj")}
_NO_DROPOUT = {"dropout": 0.0}
_NF4 = {"quantization": "nf4", "adapter_dtype": "bf16"}
_NF4_DOUBLE = {**_NF4, "double_quantization": True}
_BF16 = {"compute_dtype": "bf16"}
_FULL = {"method": "full"}
_FP32_ADAPTERS = {"adapter_dtype": "fp32"}
_LOGITS = {"loss": "full"}

CASES = (
    Case("LoRA"),
    Case("LoRA, checkpointing", changes=_CHECKPOINTED),
    Case("LoRA, checkpointing, 12 layers", layers=12, changes=_CHECKPOINTED),
    Case("LoRA, no dropout", changes=_NO_DROPOUT),
    Case("LoRA, no dropout, checkpointing", changes=_NO_DROPOUT | _CHECKPOINTED),
    Case("LoRA on q, v", changes=_ATTENTION_ONLY),
    Case("LoRA on q, v, checkpointing", changes=_ATTENTION_ONLY | _CHECKPOINTED),
    Case("LoRA on q, v, no dropout", changes=_ATTENTION_ONLY | _NO_DROPOUT),
    Case("LoRA rank 8, 4 x 64", changes={"rank": 8, "micro_batch": 4, "seq_len": 64}),
    Case("LoRA rank 256", changes={"rank": 256}),
    Case("LoRA rank 256, checkpointing", changes={"rank": 256} | _CHECKPOINTED),
    Case("LoRA, accumulation 2", changes={"gradient_accumulation": 2, "rank": 64}),
    Case("LoRA, padded batch", padded=True),
    Case("LoRA, padded batch, checkpointing", padded=True, changes={"seq_len": 256} | _CHECKPOINTED),
    Case("LoRA, no grouped heads", "llama-mha"),
    Case("LoRA, one sequence of 512", changes={"micro_batch": 1, "seq_len": 512}),
    Case("LoRA, one sequence of 32", changes={"micro_batch": 1, "seq_len": 32}),
    Case("LoRA bf16, one sequence of 16", changes={"compute_dtype": "bf16", "micro_batch": 1, "seq_len": 16}),
    Case("LoRA, vocabulary of two tiles", "llama-wide-vocabulary", layers=2, changes={"seq_len": 32}),
    Case("LoRA on gate, up", changes={"target_modules": ("gate_proj", "up_proj")}),
    Case(
        "LoRA on gate, up, no dropout, checkpointing",
        changes={"target_modules": ("gate_proj", "up_proj"), "dropout": 0.0, "gradient_checkpointing": True},
    ),
    Case(
        "QLoRA on q, v, checkpointing",
        changes={"quantization": "nf4", "adapter_dtype": "bf16", "target_modules": ("q_proj", "v_proj"), "gradient_checkpointing": True},
    ),
    Case("Gemma LoRA", "gemma"),
    Case("Gemma LoRA, checkpointing", "gemma", changes={"gradient_checkpointing": True}),
    Case("LoRA bf16", changes=_BF16),
    Case("LoRA bf16, checkpointing", changes=_BF16 | _CHECKPOINTED),
    Case("LoRA bf16, no dropout", changes=_BF16 | _NO_DROPOUT),
    Case("LoRA bf16, no dropout, checkpointing", changes=_BF16 | _NO_DROPOUT | _CHECKPOINTED),
    Case("LoRA bf16 on q, v", changes=_BF16 | _ATTENTION_ONLY),
    Case("LoRA bf16, padded batch", padded=True, changes=_BF16),
    Case("QLoRA", changes=_NF4),
    Case("QLoRA, double quantisation", changes=_NF4_DOUBLE),
    Case("QLoRA, double quantisation, checkpointing", changes=_NF4_DOUBLE | _CHECKPOINTED),
    Case("QLoRA, no dropout, checkpointing", changes=_NF4_DOUBLE | _NO_DROPOUT | _CHECKPOINTED),
    Case("QLoRA, fp32 adapters", changes=_NF4_DOUBLE | {"adapter_dtype": "fp32"}),
    Case("QLoRA on q, v", changes=_NF4_DOUBLE | _ATTENTION_ONLY),
    Case("QLoRA bf16", changes=_NF4_DOUBLE | _BF16),
    Case("QLoRA bf16, checkpointing", changes=_NF4_DOUBLE | _BF16 | _CHECKPOINTED),
    Case("QLoRA bf16, no dropout", changes=_NF4_DOUBLE | _BF16 | _NO_DROPOUT),
    Case("QLoRA bf16, padded batch, checkpointing", padded=True, changes=_NF4_DOUBLE | _BF16 | _CHECKPOINTED),
    Case("full", changes=_FULL),
    Case("full, checkpointing", changes=_FULL | _CHECKPOINTED),
    Case("full, tied head", "llama-tied", changes=_FULL),
    Case("full, tied head, checkpointing", "llama-tied", changes=_FULL | _CHECKPOINTED),
    Case("full bf16", changes=_FULL | _BF16),
    Case("full, accumulation 2", changes=_FULL | {"gradient_accumulation": 2}),
    Case("Qwen2 LoRA", "qwen2"),
    Case("Qwen2 QLoRA, checkpointing", "qwen2", changes=_NF4_DOUBLE | _CHECKPOINTED),
    Case("Qwen3 LoRA", "qwen3"),
    Case("Qwen3 LoRA, no dropout, checkpointing", "qwen3", changes=_NO_DROPOUT | _CHECKPOINTED),
    Case("Qwen3 LoRA bf16", "qwen3", changes=_BF16),
    Case("Qwen3 QLoRA bf16, checkpointing", "qwen3", changes=_NF4_DOUBLE | _BF16 | _CHECKPOINTED),
    Case("SmolLM2-135M's sizes: LoRA, checkpointing", "llama-smollm2", layers=30, changes=_CHECKPOINTED),
    Case("SmolLM2-135M's sizes: LoRA", "llama-smollm2", layers=30),
    Case("plain Trainer: LoRA, checkpointing", stack="transformers", changes=_LOGITS | _CHECKPOINTED),
    Case("plain Trainer: LoRA bf16, checkpointing", stack="transformers", changes=_LOGITS | _BF16 | _CHECKPOINTED),
    Case("plain Trainer: QLoRA bf16", stack="transformers", changes=_LOGITS | _BF16 | _NF4_DOUBLE | _FP32_ADAPTERS),
    Case("plain Trainer: k-bit QLoRA bf16", stack="transformers-kbit", changes=_LOGITS | _BF16 | _NF4_DOUBLE | _FP32_ADAPTERS),
    Case(
        "plain Trainer: k-bit QLoRA bf16, checkpointing",
        stack="transformers-kbit",
        changes=_LOGITS | _BF16 | _NF4_DOUBLE | _FP32_ADAPTERS | _CHECKPOINTED,
    ),
)
QUICK = ("LoRA", "LoRA bf16, checkpointing", "QLoRA, double quantisation, checkpointing")


PHASES = ("forward", "backward", "optimizer_step")


def measure(case: Case, *, listing: bool = False) -> dict[str, Any]:
    """Train the case in this process; bytes per moment, the breakdown at the peak, and the process's peak resident memory."""
    from ftadvise.runner.adapters import wrap_with_adapter
    from ftadvise.runner.load_model import load_model
    from ftadvise.runner.meter import MeterCallback, make_meter
    from ftadvise.runner.quiet import quiet_libraries
    from ftadvise.runner.rehearse import random_checkpoint, synthetic_rows, synthetic_tokenizer
    from ftadvise.runner.trainer import build_trainer

    recipe = case.recipe
    vocabulary = case.config["vocab_size"]
    rows = synthetic_rows(vocabulary, recipe.seq_len, recipe.sequences_per_step * recipe.max_steps, recipe.seed)
    if case.padded:
        rows = [{k: v[: len(v) - 7 * (i % 2)] for k, v in row.items()} for i, row in enumerate(rows)]
    with tempfile.TemporaryDirectory() as scratch, quiet_libraries():
        folder = Path(scratch)
        (folder / "config.json").write_text(json.dumps(case.config), encoding="utf-8")
        with random_checkpoint(folder, recipe, folder) as weights:
            model = load_model(weights, recipe, "cpu")
        if stack_of(case.stack).upcasts_kbit:
            from peft import prepare_model_for_kbit_training

            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        model = wrap_with_adapter(model, recipe, case.architecture)
        if case.stack == "trl":
            trainer = build_trainer(model, synthetic_tokenizer(vocabulary), rows, recipe, "cpu", folder / "checkpoints", save=False)
        else:
            trainer = _plain_trainer(model, rows, recipe, folder / "checkpoints")
        meter = make_meter(trainer.model, "cpu")
        trainer.add_callback(MeterCallback(meter))
        trainer.train()
    result = meter.result()
    recorder = meter._recorder
    assert recorder is not None  # noqa: S101 - the CPU always has one
    moments = {f"{phase}/{label}": moment for (phase, label), moment in recorder.peaks_by_label().items()}
    measured: dict[str, Any] = {
        "moments": {name: moment.total_bytes for name, moment in moments.items()},
        "components": {name: moment.by_label for name, moment in moments.items()},
        "peak_bytes": result.peak_allocated_bytes,
        "resident_bytes": result.device_used_bytes,
        "batch": list(result.padded_tokens),
    }
    if listing:
        measured["live"] = {name: recorder.live_at_peak(*name.split("/")) for name in moments}
    return measured


def _plain_trainer(model: Any, rows: list[dict[str, list[int]]], recipe: Recipe, folder: Path) -> Any:
    """transformers' own Trainer, as the stacks "transformers" and "transformers-kbit" mean it."""
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    from ftadvise.runner.trainer import checkpointing

    config = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=recipe.micro_batch,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        max_steps=recipe.max_steps,
        optim=recipe.optimizer,
        bf16=recipe.compute_dtype == "bf16",
        use_cpu=True,
        dataloader_pin_memory=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **checkpointing(recipe.gradient_checkpointing),
    )
    if recipe.gradient_checkpointing:
        model.enable_input_require_grads()
    return Trainer(model=model, args=config, train_dataset=Dataset.from_list(rows))


def predict(case: Case, batch: Batch) -> dict[str, dict[str, int]]:
    """What the analytic model says is alive at the peak of each phase: phase -> component -> bytes."""
    spec = spec_from_config(case.config, source=case.name)
    priced = price_memory(spec, CPU, case.recipe, stack_of(case.stack), batch=batch)
    return {phase: priced.components(phase) for phase in priced.phases()}


def compare(case: Case, measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the result table: each predicted moment of a training step, then the peak."""
    batch = Batch(*measured["batch"], masked=case.padded)
    predicted = {name: sum(alive.values()) for name, alive in predict(case, batch).items() if name in PHASES}
    peaks = {phase: max(size for name, size in measured["moments"].items() if name.startswith(phase)) for phase in PHASES}
    pairs = [(phase, predicted[phase], peaks[phase]) for phase in PHASES]
    pairs.append(("peak", max(predicted.values()), measured["peak_bytes"]))
    return [
        {
            "case": case.name,
            "architecture": case.architecture,
            "stack": case.stack,
            "moment": name,
            "predicted_bytes": guess,
            "measured_bytes": real,
            "error_percent": round(100 * (guess / real - 1), 3),
            "resident_minus_allocated_bytes": measured["resident_bytes"] - measured["peak_bytes"] if name == "peak" else "",
        }
        for name, guess, real in pairs
    ]


def print_listing(case: Case, measured: dict[str, Any]) -> None:
    """What is alive at each moment, predicted by component and measured by component and by size."""
    predicted = predict(case, Batch(*measured["batch"], masked=case.padded))
    for name, live in measured["live"].items():
        print(f"   {name}\n      predicted {predicted.get(name.partition('/')[0])}\n      measured  {measured['components'][name]}")
        static = ("weights", "quantization_constants", "adapters", "optimizer_state")
        counts = Counter((label, operation, size) for label, operation, size in live if label not in static)
        for (label, operation, size), count in sorted(counts.items(), key=lambda item: -item[0][2] * item[1])[:40]:
            print(f"      {count:4d} x {size:10d}  {label:12s} {operation}")


def in_fresh_process(case: Case, *, listing: bool) -> dict[str, Any]:
    """`measure` in a process of its own, so that the resident memory is this case's."""
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch) / "measured.json"
        command = [sys.executable, __file__, "--child", case.name, "--answer", str(answer), *(["--listing"] if listing else [])]
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # the models are too small for more
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=one_thread)
        if done.returncode:
            raise SystemExit(f"{case.name}: training failed\n{done.stderr[-2000:]}")
        measured: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        return measured


def main() -> int:
    """Run the cases, print the table, write the CSV."""
    parser = argparse.ArgumentParser(description="metered CPU training steps against the analytic memory model")
    parser.add_argument("--quick", action="store_true", help="three cases, for CI")
    parser.add_argument("--only", help="cases whose name contains this text")
    parser.add_argument("--append", action="store_true", help="add the cases of --only to the CSV")
    parser.add_argument("--listing", action="store_true", help="show what was alive at each moment")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        case = next(case for case in CASES if case.name == arguments.child)
        arguments.answer.write_text(json.dumps(measure(case, listing=arguments.listing)), encoding="utf-8")
        return 0

    partial = arguments.quick or arguments.only is not None
    cases = [case for case in CASES if (not arguments.quick or case.name in QUICK) and (arguments.only or "") in case.name]
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES} | {"python": platform.python_version()}
    rows: list[dict[str, Any]] = []
    for case in cases:
        measured = in_fresh_process(case, listing=arguments.listing)
        new = compare(case, measured)
        rows += new
        print(f"{case.name} ({case.architecture})", flush=True)
        for row in new:
            figures = f"{row['predicted_bytes'] / 2**20:9.3f} {row['measured_bytes'] / 2**20:9.3f} MiB {row['error_percent']:+8.3f} %"
            print(f"   {row['moment']:26s} {figures}", flush=True)
        if arguments.listing:
            print_listing(case, measured)
    if not partial or arguments.append:
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("a" if arguments.append else "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*rows[0], *versions])
            if not arguments.append:
                writer.writeheader()
            writer.writerows(row | versions for row in rows)
    peaks = [row for row in rows if row["moment"] == "peak"]
    worst = max(peaks, key=lambda row: abs(row["error_percent"]))
    print(f"{len(peaks)} peaks, largest error {worst['error_percent']:+.3f} % ({worst['case']})")
    resident = sorted(row["resident_minus_allocated_bytes"] for row in peaks)
    print("resident minus allocated, MiB:", " ".join(f"{size / 2**20:.0f}" for size in resident))
    return int(abs(worst["error_percent"]) > 100 * PEAK_LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
