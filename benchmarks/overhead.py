"""What our runner costs: training through `ftadvise run` beside the same SFTTrainer script written by hand.

Both train the same random Llama with LoRA on the same data with the same arguments, in fresh processes that take turns (A B A B ...), on
the GPU where there is one. Of every optimizer step but the first ones: wall-clock seconds and seconds of processor time of the process,
which neighbours on the machine disturb less. Of every process: its peak resident memory above what it held before the first step (on a
GPU: the highest allocated bytes). Of one more pair, without the clock: the peak of live tensor bytes in a step. The intervals are 95 %,
by bootstrap over processes and their steps.

Run: python benchmarks/overhead.py [--pairs 4] [--steps 18]; writes benchmarks/results/overhead.csv. --callbacks shows what each of the
runner's callbacks takes.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "overhead.csv"
BARS = {"seconds per step": 1.02, "processor seconds per step": 1.02, "peak memory": 1.01, "peak of live tensors": 1.01}
WARM_UP = 3
"""Steps that are not counted, as in overhead_worker.py."""
TRAININGS = ("by hand", "ftadvise")
WORDS = 4000
SIZES = {
    "cpu": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4},
    "cuda": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 8},
}
RECIPE: dict[str, Any] = {
    "rank": 16,
    "alpha": 32,
    "dropout": 0.05,
    "micro_batch": 2,
    "gradient_accumulation": 1,
    "gradient_checkpointing": False,
    "learning_rate": 1e-4,
    "schedule": "constant",
    "warmup_ratio": 0.0,
    "seed": 0,
}
ON_DEVICE: dict[str, dict[str, Any]] = {
    "cpu": {"seq_len": 128, "compute_dtype": "fp32", "adapter_dtype": "fp32"},
    "cuda": {"seq_len": 1024, "compute_dtype": "bf16", "adapter_dtype": "fp32"},
}
Run = dict[str, Any]


# The comparison.


def prepare(folder: Path, steps: int) -> Run:
    """A model with random weights, a tokenizer of whole words, and rows that are all as long as the recipe's sequence."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    device = "cuda" if torch.cuda.is_available() else "cpu"
    words = {word: number for number, word in enumerate(["<unk>", "<s>", "</s>", *(f"w{n}" for n in range(WORDS))])}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))  # noqa: S106
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    plain.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>")  # noqa: S106
    model = folder / "model"
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=32_000, max_position_embeddings=4096, tie_word_embeddings=True, eos_token_id=2, **SIZES[device])
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    LlamaForCausalLM(config).to(dtype).save_pretrained(model)
    tokenizer.save_pretrained(model)
    recipe = {**RECIPE, **ON_DEVICE[device], "max_steps": steps}
    draw = random.Random(0)  # noqa: S311 - words, not secrets
    count = recipe["micro_batch"] * recipe["gradient_accumulation"] * steps
    rows = ({"text": " ".join(f"w{draw.randrange(WORDS)}" for _ in range(recipe["seq_len"] - 1))} for _ in range(count))
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"model": str(model), "data": str(data), "device": device, "recipe": recipe, "tensors": False, "callbacks": False}


def measured(which: str, case: Run, folder: Path) -> Run:
    """One training in a fresh process."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        path = Path(out) / "case.json"
        path.write_text(json.dumps({**case, "out": f"{out}/run"}), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("overhead_worker.py")), which, str(path)],
            capture_output=True,
            text=True,
            check=False,
            env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "FTADVISE_NO_CALIBRATION": "1"},
        )
    if done.returncode:
        sys.exit(f"{which}: {done.stderr[-2000:]}")
    found: Run = json.loads(done.stdout.splitlines()[-1])
    return found


def interval(ours: Sequence[Sequence[float]], plain: Sequence[Sequence[float]], times: int = 4000) -> tuple[float, float, float]:
    """(ratio of the medians, lower and upper end of its 95 % interval) of figures grouped by process."""
    draw = random.Random(0)  # noqa: S311

    def again(groups: Sequence[Sequence[float]]) -> float:
        return statistics.median(value for group in draw.choices(groups, k=len(groups)) for value in draw.choices(group, k=len(group)))

    def whole(groups: Sequence[Sequence[float]]) -> float:
        return statistics.median(value for group in groups for value in group)

    ratios = sorted(again(ours) / again(plain) for _ in range(times))
    return whole(ours) / whole(plain), ratios[int(0.025 * times)], ratios[int(0.975 * times) - 1]


def compare(pairs: int, steps: int) -> list[dict[str, Any]]:
    """The rows of the table."""
    with tempfile.TemporaryDirectory(prefix="ftadvise-overhead-") as made:
        folder = Path(made)
        case = prepare(folder, steps)
        runs: dict[str, list[Run]] = {which: [] for which in TRAININGS}
        for number in range(pairs):
            for which in TRAININGS if number % 2 == 0 else reversed(TRAININGS):
                runs[which].append(measured(which, case, folder))
                middle = statistics.median(seconds for seconds, _ in runs[which][-1]["steps"])
                print(f"pair {number + 1} of {pairs}: {which:8s} {middle:.3f} s per step", file=sys.stderr, flush=True)
        short = {**case, "tensors": True, "recipe": {**case["recipe"], "max_steps": WARM_UP + 2}}
        tensors = {which: measured(which, short, folder)["tensors"] for which in TRAININGS}
    figures = {
        "seconds per step": ("s", [[[wall for wall, _ in run["steps"]] for run in runs[which]] for which in TRAININGS]),
        "processor seconds per step": ("s", [[[cpu for _, cpu in run["steps"]] for run in runs[which]] for which in TRAININGS]),
        "peak memory": ("bytes", [[[run["memory"]] for run in runs[which]] for which in TRAININGS]),
        "peak of live tensors": ("bytes", [[[tensors[which]]] for which in TRAININGS]),
    }
    rows = []
    for what, (unit, (plain, ours)) in figures.items():
        ratio, low, high = interval(ours, plain)
        rows.append(
            {
                "what": what,
                "device": case["device"],
                "by_hand": statistics.median(value for group in plain for value in group),
                "ftadvise": statistics.median(value for group in ours for value in group),
                "unit": unit,
                "ratio": round(ratio, 4),
                "low": round(low, 4),
                "high": round(high, 4),
                "bar": BARS[what],
                "verdict": "kept" if high <= BARS[what] else "missed" if low > BARS[what] else "not resolved",
                "processes": pairs,
                "steps": sum(map(len, ours)),
            }
        )
    return rows


def table() -> str:
    """The last results as Markdown, for docs/overhead.md."""
    if not RESULTS.is_file():
        return "Not measured yet: `python benchmarks/overhead.py`.\n"
    with RESULTS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = ["| | device | by hand | `ftadvise run` | ratio | 95 % interval | bar | |", "|---|---|--:|--:|--:|--:|--:|---|"]
    for row in rows:
        plain, ours = (
            f"{float(row[who]):.3f} s" if row["unit"] == "s" else f"{float(row[who]) / 2**20:,.0f} MiB" for who in ("by_hand", "ftadvise")
        )
        interval_words = f"{float(row['low']):.3f} to {float(row['high']):.3f}"
        cells = (row["what"], row["device"], plain, ours, f"{float(row['ratio']):.3f}", interval_words, row["bar"], row["verdict"])
        lines.append(f"| {' | '.join(cells)} |")
    last = rows[0]
    return "\n".join([*lines, "", f"{last['processes']} processes of each, {last['steps']} steps of each.", ""])


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=18)
    parser.add_argument("--callbacks", action="store_true", help="what each callback of the runner takes per step; no comparison")
    arguments = parser.parse_args()
    if arguments.callbacks:
        with tempfile.TemporaryDirectory(prefix="ftadvise-overhead-") as made:
            case = {**prepare(Path(made), arguments.steps), "callbacks": True}
            for which in TRAININGS:
                found = measured(which, case, Path(made))
                middle = statistics.median(seconds for seconds, _ in found["steps"])
                print(f"{which}: {middle:.3f} s per step")
                for name, seconds in sorted(found["callbacks"].items(), key=lambda item: -item[1]):
                    print(f"  {name:24s} {1000 * seconds / (len(found['steps']) + 1):8.3f} ms per step")
        return
    rows = compare(arguments.pairs, arguments.steps)
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(f"{row['what']:28s} {row['ratio']:.4f} ({row['low']:.4f} to {row['high']:.4f}), bar {row['bar']}: {row['verdict']}")
    if any(row["verdict"] == "missed" for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
