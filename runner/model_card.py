"""The model card (README.md) of what a run trained: base, data, recipe, memory measured beside predicted, losses, versions, how to load it.

The text is for people who get the folder without the run. Nothing in it is trusted: names and values come from files and from the hub, so
they are escaped for Markdown and HTML. Paths are left out, because they name the user and the machine: of the data the card states the
file names and their fingerprint.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from ftadvise.estimator.plan_file import write_text_atomically
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.printable import one_line
from ftadvise.profiles.units import gib
from ftadvise.runner.report import RunReport, comparison_rows, recipe_of

CARD_NAME = "README.md"
Form = Literal["adapter", "model", "merged"]
"""What is in the folder: an adapter, a fully fine-tuned model, or an adapter merged into its base."""
_HUB_NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_MARKDOWN = re.compile(r"[\\`*\[\]|~$@]|(?<=\])\(|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)|(?<=www)\.", re.IGNORECASE)
"""What Markdown could take for more than text inside a line: emphasis, links, code, cells, formulas, addresses."""
_MAX_SHOWN = 200
_METHOD_FIELDS = {
    "lora": ("rank", "alpha", "rslora", "dropout", "target_modules"),
    "dora": ("rank", "alpha", "rslora", "dropout", "target_modules"),
    "adalora": ("rank", "alpha", "dropout", "target_modules"),
    "ia3": ("target_modules",),
    "full": (),
}


def write_model_card(folder: Path, report: RunReport, *, form: Form | None = None, dtype: str = "its own dtype") -> None:
    """Write `model_card` as README.md into the folder of the weights, in place of the one that PEFT writes.

    Raises:
        InputError: it cannot be written.
    """
    write_text_atomically(folder / CARD_NAME, model_card(report, form=form, dtype=dtype))


def model_card(report: RunReport, *, form: Form | None = None, dtype: str = "its own dtype") -> str:
    """The card as Markdown with YAML front matter.

    Args:
        form: what the folder holds; by default what the report's recipe trains.
        dtype: of merged weights.
    """
    from huggingface_hub import ModelCard, ModelCardData

    recipe = recipe_of(report)
    form = form or ("model" if recipe.method == "full" else "adapter")
    base = str(report.model["id"])
    data = ModelCardData(
        base_model=base if _on_hub(report) else None,
        library_name="peft" if form == "adapter" else "transformers",
        pipeline_tag="text-generation",
        tags=["ftadvise", "sft", recipe.method, *([recipe.quantization] if recipe.quantization != "none" else [])],
    )
    sections = [
        f"# {_plain(recipe.label)} of {_plain(base)}",
        _what(recipe, base, form, dtype),
        "## How to load it\n\n" + _snippet(report, form),
        "## Training data\n\n" + _table(_data(report)),
        "## Recipe\n\n" + _table(_recipe(recipe, report)),
        "## Loss\n\n" + _losses(report),
        "## Memory at the peak, predicted and measured\n\n" + _memory(report),
        "## Limits\n\n" + _limits(recipe, form),
        "## Versions\n\n" + _table(list(report.versions.items())),
    ]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"))


def _on_hub(report: RunReport) -> bool:
    """Whether the base's name is one that the hub knows: front matter that names anything else is refused there."""
    model = report.plan.get("model", {})
    return model.get("local_path") is None and _HUB_NAME.fullmatch(str(report.model["id"])) is not None


def _what(recipe: Recipe, base: str, form: Form, dtype: str | None) -> str:
    if form == "adapter":
        quantized = f", on a base quantised to {recipe.quantization}" if recipe.quantization != "none" else ""
        return (
            f"A {_plain(recipe.label)} adapter in PEFT's format, trained with ftadvise{quantized}. It needs its base model, {_plain(base)}."
        )
    if form == "merged":
        return f"{_plain(base)} with a {_plain(recipe.label)} adapter merged into its weights ({_plain(dtype)}), by ftadvise."
    return f"{_plain(base)}, all weights fine-tuned with ftadvise."


def _snippet(report: RunReport, form: Form) -> str:
    """Python that loads the folder. Names go in as JSON strings in ASCII, which are Python strings too and cannot end the code block."""
    load = ["from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    if form == "adapter":
        base = json.dumps(str(report.model["id"]) if _on_hub(report) else "FOLDER OF THE BASE MODEL")
        load = ["from peft import PeftModel", *load, f"base = AutoModelForCausalLM.from_pretrained({base})"]
        load += ['model = PeftModel.from_pretrained(base, "THIS FOLDER")']
    else:
        load += ['model = AutoModelForCausalLM.from_pretrained("THIS FOLDER")']
    return "\n".join(["```python", *load, 'tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")', "```"])


def _data(report: RunReport) -> list[tuple[str, Any]]:
    data = report.data
    rows: list[tuple[str, Any]] = []
    files = [file.get("path") for file in data.get("files") or () if isinstance(file, dict)] or [data.get("path")]
    if shown := ", ".join(dict.fromkeys(_base_name(str(name)) for name in files if name)):
        rows.append(("name", shown))
    keys = {"format": "format", "rows": "rows", "dropped": "rows left out", "truncated": "rows cut at the limit", "mean": "tokens, mean"}
    keys |= {"max": "tokens, longest", "sha256": "SHA-256"}
    return rows + [(words, data[key]) for key, words in keys.items() if data.get(key) is not None]


def _base_name(name: str) -> str:
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _recipe(recipe: Recipe, report: RunReport) -> list[tuple[str, Any]]:
    shape = _METHOD_FIELDS.get(recipe.method, ("rank",))
    fields = ["method", "quantization", *(["double_quantization"] if recipe.quantization in ("nf4", "fp4") else []), "compute_dtype"]
    fields += [
        *(["adapter_dtype"] if recipe.method != "full" else []),
        *shape,
        "micro_batch",
        "gradient_accumulation",
        "seq_len",
        "packing",
    ]
    fields += ["optimizer", "learning_rate", "schedule", "warmup_ratio", "epochs", "seed"]
    values = recipe.to_dict()
    return [*((name, values[name]) for name in fields), ("optimizer steps", report.steps)]


def _losses(report: RunReport) -> str:
    known = [(step, loss) for step, loss in report.losses if loss is not None]
    rows: list[tuple[str, Any]] = []
    if known:
        rows = [(f"training, step {step}", f"{loss:.4f}") for step, loss in dict.fromkeys((known[0], known[-1]))]
    rows += [(f"evaluation, step {step}", f"{loss:.4f}") for step, loss in getattr(report, "evaluations", ()) if loss is not None]
    return _table(rows) if rows else "No step was logged."


def _memory(report: RunReport) -> str:
    lines = ["| | predicted | measured |", "| --- | ---: | ---: |"]
    lines += [f"| {row.name} | {_size(row.predicted_bytes)} | {_size(row.measured_bytes)} |" for row in comparison_rows(report)]
    gpus = report.hardware.get("gpus") or []
    device = gpus[0].get("name", "GPU") if gpus else "CPU"
    return "\n".join([*lines, "", f"On: {_plain(device)}. {_plain(report.measured.get('definition', ''))}".rstrip()])


def _size(num_bytes: int | None) -> str:
    return "-" if num_bytes is None else gib(num_bytes)


def _limits(recipe: Recipe, form: Form) -> str:
    lines = [
        "It was fitted to the data above and nothing else was checked: it may be wrong, biased, or repeat its training data.",
        "The licences of the base model and of the data apply.",
    ]
    if form == "adapter":
        lines.append("It fits only the base model it was trained on.")
    if recipe.quantization != "none" and form != "model":
        lines.append(
            f"It was trained against a base quantised to {recipe.quantization}; on an unquantised base its answers differ a little."
        )
    return "\n".join(f"- {line}" for line in lines)


def _table(rows: list[tuple[str, Any]]) -> str:
    lines = [f"| {_plain(name)} | {_plain(_words(value))} |" for name, value in rows]
    return "\n".join(["| | |", "| --- | --- |", *lines])


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _plain(value: Any) -> str:
    """Text that Markdown and HTML show as it is, on one line, without characters that cannot be seen."""
    line = one_line(str(value))
    if len(line) > _MAX_SHOWN:
        line = line[: _MAX_SHOWN - 1] + "…"
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\g<0>", line)
