"""Records what the analytic tape must reproduce: forward and backward peaks of traced training steps, for the architectures of
tests/estimator/test_tape_newer.py. Small configs; needs ftadvise[run]; takes some minutes.

    python benchmarks/record_tape_newer.py [WORD ...]     only cases with one of these words in their names are traced anew

Peaks are bytes above what was allocated when the step began, without the matrix libraries' workspaces.
"""

from __future__ import annotations

import csv
import importlib.metadata
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matrix import TINY_CONFIGS

from ftadvise.estimator.activations import Batch
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.stack import stack_of
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.model_config import spec_from_config
from ftadvise.profiles.resolve_gpu import resolve_gpus

RESULTS = Path(__file__).parent.parent / "tests" / "estimator" / "data" / "tape_newer.csv"
COLUMNS = ("case", "config", "recipe", "stack", "masked", "forward_bytes", "backward_bytes", "trained_parameters", "versions")

_BASE: dict[str, Any] = {"rank": 8, "micro_batch": 2, "seq_len": 128, "gradient_accumulation": 1, "max_steps": 2, "loss": "full"}
_LORA: dict[str, Any] = {**_BASE, "dropout": 0.0, "gradient_checkpointing": False}  # PEFT refuses dropout on parameters of experts
_QLORA: dict[str, Any] = {**_LORA, "quantization": "nf4", "double_quantization": True, "adapter_dtype": "bf16"}
_FULL: dict[str, Any] = {**_BASE, "method": "full", "gradient_checkpointing": False}
_RECIPES: dict[str, tuple[dict[str, Any], bool]] = {
    "lora": (_LORA, False),
    "lora checkpointed": ({**_LORA, "gradient_checkpointing": True}, False),
    "lora with dropout on attention": ({**_LORA, "dropout": 0.1, "target_modules": ["o_proj"]}, False),
    "lora padded": (_LORA, True),
    "qlora": (_QLORA, False),
    "qlora checkpointed": ({**_QLORA, "gradient_checkpointing": True}, False),
    "full": (_FULL, False),
    "full checkpointed": ({**_FULL, "gradient_checkpointing": True}, False),
}
_PLAIN = {**TINY_CONFIGS["llama"], "num_hidden_layers": 6}
_SIGMOID = {"model_type": "", "moe_intermediate_size": 96, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "n_routed_experts": 8}
_SIGMOID |= {"n_shared_experts": 1, "n_group": 1, "topk_group": 1}
_NAMED = ("gemma", "gemma2", "gemma3", "mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v3")
CONFIGS: dict[str, dict[str, Any]] = {
    **{name: {**TINY_CONFIGS[name], "num_hidden_layers": 6} for name in _NAMED},
    "deepseek_v2": {**TINY_CONFIGS["deepseek_v3"], "model_type": "deepseek_v2", "topk_method": "greedy", "num_hidden_layers": 6},
    "dots1": {**_PLAIN, **_SIGMOID, "model_type": "dots1"},
    "glm4_moe": {**_PLAIN, **_SIGMOID, "model_type": "glm4_moe", "use_qk_norm": False, "attention_bias": True},
}


def cases() -> Iterator[tuple[str, dict[str, Any], dict[str, Any], bool]]:
    """Name, config, recipe fields, whether lengths differ."""
    for architecture, config in CONFIGS.items():
        for name, (fields, masked) in _RECIPES.items():
            attention = {"attention": "eager"} if architecture == "gemma2" else {}
            yield f"{architecture}: {name}", config, {**fields, **attention}, masked


def measure(config: dict[str, Any], recipe: Recipe, *, masked: bool) -> dict[str, int]:
    """Peaks of the first step of a trace on an H100."""
    from ftadvise.estimator.trace import trace

    hardware = Hardware(resolve_gpus("H100 SXM 80GB"), None, 2**35, 2**35, "named")  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        spec = spec_from_config(config, source="recorded", local_path=folder)
        batch = Batch(recipe.micro_batch, recipe.seq_len, masked)
        result = trace(spec, hardware, recipe, stack_of("transformers"), batch=batch)
    timeline = result.timeline
    peaks, live = {"forward": 0, "backward": 0}, 0
    begin, end = timeline.phases.index("forward"), timeline.phases.index("optimizer_step")
    for size, phase, operation in zip(timeline.sizes[begin:end], timeline.phases[begin:end], timeline.operations[begin:end], strict=True):
        live += size if operation != "cublas" else 0
        peaks[phase] = max(peaks[phase], live)
    return {"forward_bytes": peaks["forward"], "backward_bytes": peaks["backward"], "trained_parameters": result.trainable_parameters}


def main(words: list[str]) -> None:
    """Trace what is missing or asked for, and write the file anew."""
    known = {}
    if RESULTS.is_file():
        with RESULTS.open(encoding="utf-8", newline="") as file:
            known = {row["case"]: row for row in csv.DictReader(file)}
    versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "peft", "bitsandbytes"))
    rows = []
    for name, config, fields, masked in cases():
        row = known.get(name)
        if row is None or any(word in name for word in words):
            recipe = Recipe(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})
            measured = measure(config, recipe, masked=masked)
            row = {"case": name, "config": json.dumps(config), "recipe": json.dumps(fields), "stack": "transformers", "masked": int(masked)}
            row |= {**measured, "versions": versions}
            print(name, measured, flush=True)
        rows.append(row)
    with RESULTS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
