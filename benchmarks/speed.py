"""How fast the estimators are: estimates per second, cold commands, traces with their memory. Each figure in a process of its own.

Run: python benchmarks/speed.py (`make bench`); writes benchmarks/results/speed.csv
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "speed.csv"
FTADVISE = [sys.executable, "-m", "ftadvise"]
ANALYTIC = """
import itertools, json, time
from ftadvise.estimator.estimate import estimate
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.stack import stack_of
from ftadvise.profiles.probe import named_hardware
from ftadvise.profiles.resolve_model import resolve_model
model, hardware, stack = resolve_model("Qwen/Qwen2.5-7B"), named_hardware("RTX 4090"), stack_of()
choices = itertools.product((8, 16, 32, 64), (1, 2, 4, 8, 16), (256, 512, 1024, 2048, 4096), (True, False), (1, 4))
recipes = [
    Recipe(rank=r, micro_batch=b, seq_len=s, gradient_checkpointing=c, gradient_accumulation=a) for r, b, s, c, a in choices
]
begin = time.perf_counter()
for recipe in recipes:
    estimate(model, hardware, recipe, stack)
cold = time.perf_counter() - begin
begin = time.perf_counter()
for _ in range(5):
    for recipe in recipes:
        estimate(model, hardware, recipe, stack)
warm = (time.perf_counter() - begin) / 5
print(json.dumps({"first": len(recipes) / cold, "again": len(recipes) / warm}))
"""
TRACE = """
import json, resource, sys, time
import torch, transformers, peft
from ftadvise import api
from ftadvise.estimator.stack import stack_of
from ftadvise.estimator.trace import trace
model, stack, hardware = api._model(sys.argv[1]), stack_of(), api._hardware("H100 SXM")
recipe = api.complete_recipe({"method": "qlora", "micro_batch": 1}, hardware, stack)
begin = time.perf_counter()
result = trace(model, hardware, recipe, stack)
print(json.dumps({"seconds": time.perf_counter() - begin, "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


def answer(code: str, *arguments: str) -> dict[str, float]:
    """What the last line of a fresh Python process says."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def seconds(command: list[str], *, times: int = 5) -> float:
    """The fastest of some runs after one that fills the caches."""
    taken = []
    for _ in range(times + 1):
        begin = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True, env=os.environ | {"PYTHONDONTWRITEBYTECODE": ""})
        taken.append(time.perf_counter() - begin)
    return min(taken[1:])


def main() -> None:
    """Measure, print, write."""
    rates = answer(ANALYTIC)
    target = ["--model", "Qwen/Qwen2.5-7B", "--gpu", "RTX 4090"]
    with tempfile.TemporaryDirectory() as folder:
        plan = seconds([*FTADVISE, "plan", *target, "--output", f"{folder}/plan.yaml", "--json"])
    rows = [
        ("analytic estimates per second, 400 recipes of 8 structures, the first time", rates["first"], "1/s"),
        ("analytic estimates per second, again", rates["again"], "1/s"),
        ("ftadvise estimate, cold process", seconds([*FTADVISE, "estimate", *target]), "s"),
        ("ftadvise plan, cold process", plan, "s"),
        ("ftadvise --help, cold process", seconds([*FTADVISE, "--help"]), "s"),
    ]
    for model in ("Qwen/Qwen2.5-7B", "meta-llama/Llama-3.1-70B"):
        found = answer(TRACE, model)
        rows += [(f"trace of {model}, QLoRA, imports apart", found["seconds"], "s")]
        rows += [("peak memory of that process", found["rss"] / 2**30, "GiB")]
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["what", "value", "unit"])
        for what, value, unit in rows:
            print(f"{what:80s} {value:10.2f} {unit}", flush=True)
            writer.writerow([what, round(value, 3), unit])


if __name__ == "__main__":
    main()
