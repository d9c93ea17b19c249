"""Records what the analytic tape must reproduce for the architectures of tests/estimator/test_tape_classic.py: forward and backward peaks
of traced training steps, and the linear layers of the real models. Small configs; needs ftadvise[run]; takes some minutes.

    python benchmarks/record_tape_classic.py [WORD ...]     only cases with one of these words in their names are traced anew

Peaks are bytes above what was allocated when the step began, without the matrix libraries' workspaces. Where the backward pass adds two
gradients, autograd adds in place unless a dispatch mode (the recorder) or a meta tensor forbids it (torch/csrc/autograd/input_buffer.cpp,
can_accumulate_inplace): such a sum is recorded as the in-place one that a real run does.
"""

from __future__ import annotations

import csv
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftadvise.estimator.activations import Batch
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.stack import stack_of
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.model_config import spec_from_config
from ftadvise.profiles.model_spec import ModelSpec
from ftadvise.profiles.resolve_gpu import resolve_gpus

_DATA = Path(__file__).parent.parent / "tests" / "estimator" / "data"
PEAKS, MODELS = _DATA / "tape_classic.csv", _DATA / "tape_classic.json"
COLUMNS = ("case", "model", "recipe", "masked", "forward_bytes", "backward_bytes", "trained_parameters")

EAGER_ONLY = ("bloom", "gptj", "gpt_neo")
_BASE: dict[str, Any] = {
    "micro_batch": 2, "seq_len": 128, "rank": 4, "gradient_accumulation": 1, "dropout": 0.05, "loss": "full", "max_grad_norm": 0.0,
    "gradient_checkpointing": False, "optimizer": "sgd",
}  # fmt: skip
RECIPES: dict[str, tuple[dict[str, Any], bool]] = {
    "lora": (_BASE, False),
    "lora checkpointed": ({**_BASE, "gradient_checkpointing": True}, False),
    "full checkpointed": ({**_BASE, "method": "full", "gradient_checkpointing": True}, False),
    "bf16 lora padded": ({**_BASE, "adapter_dtype": "bf16", "dropout": 0.0}, True),
    "lora on attention, eager": ({**_BASE, "attention": "eager", "target_modules": ["attention"]}, False),
}


def recipe_of(spec: ModelSpec, fields: dict[str, Any]) -> Recipe:
    """ "attention" among the targets stands for the model's own names."""
    fields = dict(fields)
    if "target_modules" in fields:
        fields["target_modules"] = tuple(spec.attention_modules)
    if spec.model_type in EAGER_ONLY:
        fields["attention"] = "eager"
    return Recipe(**fields)


def measure(config: dict[str, Any], fields: dict[str, Any], *, masked: bool) -> dict[str, int]:
    """Peaks of the first step of a trace on an A100."""
    from ftadvise.estimator.trace import trace

    hardware = Hardware(resolve_gpus("A100 SXM 80GB"), None, 2**35, 2**35, "named")  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        spec = spec_from_config(config, source="recorded", local_path=folder)
        recipe = recipe_of(spec, fields)
        batch = Batch(recipe.micro_batch, recipe.seq_len, masked)
        result = trace(spec, hardware, recipe, stack_of("transformers"), batch=batch)
    timeline = result.timeline
    begin, end = timeline.phases.index("forward"), timeline.phases.index("optimizer_step")
    rows = zip(timeline.sizes[begin:end], timeline.operations[begin:end], timeline.phases[begin:end], strict=True)
    peaks, live = {"forward": 0, "backward": 0}, 0
    for size, phase in added_in_place([row for row in rows if row[1] != "cublas"]):
        live += size
        peaks[phase] = max(peaks[phase], live)
    return {"forward_bytes": peaks["forward"], "backward_bytes": peaks["backward"], "trained_parameters": result.trainable_parameters}


def added_in_place(events: list[tuple[int, str, str]]) -> list[tuple[int, str]]:
    """(bytes, phase) of every event, without the storages of sums whose two terms are released at once."""
    skipped: set[int] = set()
    for index, (size, operation, phase) in enumerate(events):
        if phase == "backward" and size > 0 and operation.startswith("aten.add."):
            released = [at for at in range(index + 1, min(index + 6, len(events))) if events[at][0] == -size]
            if len(released) >= 2:
                skipped |= {index, released[0]}
    return [(size, phase) for index, (size, _, phase) in enumerate(events) if index not in skipped]


def linear_layers(config: dict[str, Any]) -> list[list[Any]]:
    """[name within its layer, in features, out features, how many layers have it] of every linear layer but the head."""
    import torch
    from transformers import AutoConfig
    from transformers.pytorch_utils import Conv1D

    from ftadvise.estimator.trace.model_config import skeleton

    options = {key: value for key, value in config.items() if key != "model_type"}
    found: Counter[tuple[str, int, int]] = Counter()
    for name, module in skeleton(AutoConfig.for_model(config["model_type"], **options)).named_modules():
        inside = re.search(r"\.(?:layers|h)\.\d+\.(.+)", name)
        if inside and isinstance(module, (torch.nn.Linear, Conv1D)):
            shape = module.weight.shape if isinstance(module, torch.nn.Linear) else module.weight.shape[::-1]
            found[inside[1], shape[1], shape[0]] += 1
    return [[*key, count] for key, count in sorted(found.items())]


def cases() -> Iterator[tuple[str, str, str]]:
    """Name, model and recipe."""
    for model in json.loads(MODELS.read_text(encoding="utf-8")):
        for recipe in RECIPES:
            yield f"{model}: {recipe}", model, recipe


def main(words: list[str]) -> None:
    """Trace what is missing or asked for, and write both files anew."""
    models = json.loads(MODELS.read_text(encoding="utf-8"))
    for entry in models.values():
        entry["linears"] = linear_layers(entry["config"])
    MODELS.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in models.items()) + "\n}\n", encoding="utf-8")
    known: dict[str, Any] = {}
    if PEAKS.is_file():
        with PEAKS.open(encoding="utf-8", newline="") as file:
            known = {row["case"]: row for row in csv.DictReader(file)}
    rows = []
    for name, model, recipe in cases():
        row = known.get(name)
        if row is None or any(word in name for word in words):
            fields, masked = RECIPES[recipe]
            row = {"case": name, "model": model, "recipe": json.dumps(fields), "masked": int(masked)}
            row |= measure(models[model]["config"], fields, masked=masked)
            print(name, row["forward_bytes"], row["backward_bytes"], flush=True)
        rows.append(row)
    with PEAKS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
