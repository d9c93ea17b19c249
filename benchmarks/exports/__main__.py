"""Every export to every target's own parser: which accept what, or why there is no parser here.

Each parser of parsers.yaml runs in an environment of its own, made on top of this one (which needs ftadvise[run]); the package index is
needed once. Run: python -m benchmarks.exports (`make check-exports`). Exits with 1 when a parser refuses an export.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.exports.recipes import every_recipe, plan_file
from ftadvise.advisor.export import TARGETS, export_plan
from ftadvise.estimator.recipe import Recipe

ROOT = Path(__file__).parents[2]
_HERE = Path(__file__).parent
_RESULTS = ROOT / "benchmarks" / "results" / "exports.csv"
_SECONDS = 1200


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the parser of one target said: answers by plan, or why there are none."""

    target: str
    checks: str
    answers: dict[str, str | None]
    why: str = ""


def main() -> None:
    """Export, install, parse; the result goes to results/exports.csv when every target was asked."""
    parser = argparse.ArgumentParser(description="Exports through the targets' own parsers.")
    parser.add_argument("--environments", type=Path, default=ROOT / ".venv-exports", help="folder for one environment per target")
    parser.add_argument("--targets", nargs="*", choices=sorted(TARGETS), help="targets to check (all)")
    options = parser.parse_args()
    outcomes = [check(name, options.environments) for name in options.targets or TARGETS]
    if options.targets is None:
        with _RESULTS.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([("target", "title", "parser", "plans", "accepted"), *map(line, outcomes)])
    for each in outcomes:
        print(*line(each), sep="; ")
    refusals = [(each.target, plan, answer) for each in outcomes for plan, answer in each.answers.items() if answer is not None]
    for target, plan, answer in refusals:
        print(f"{target}, {plan}: {answer}", file=sys.stderr)
    sys.exit(1 if refusals else 0)


def line(outcome: Outcome) -> tuple[str, ...]:
    """A row of the result."""
    accepted = sum(answer is None for answer in outcome.answers.values())
    parser = outcome.checks or outcome.why
    return outcome.target, TARGETS[outcome.target].title, parser, str(len(outcome.answers)), str(accepted)


def check(name: str, environments: Path) -> Outcome:
    """Every plan through the parser of one target."""
    about = yaml.safe_load((_HERE / "parsers.yaml").read_text(encoding="utf-8")).get(name)
    if about is None:
        return Outcome(name, "", {}, "no parser")
    print(f"{name} ...", file=sys.stderr, flush=True)
    try:
        python = _environment(environments / name, about.get("build", []), about["packages"])
        with tempfile.TemporaryDirectory() as folder:
            write_plans(name, Path(folder), every_recipe())
            command = [str(python), str(_HERE / "parse.py"), name, folder]
            environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, env=environment, check=True)
    except (subprocess.SubprocessError, OSError) as error:
        said = getattr(error, "stderr", "") or str(error)
        return Outcome(name, "", {}, "could not be run: " + " ".join(said.split())[-200:])
    return Outcome(name, about["checks"], json.loads(done.stdout.splitlines()[-1]))


def write_plans(name: str, folder: Path, recipes: Iterable[Recipe]) -> None:
    """One folder per plan, named by what it holds."""
    for number, recipe in enumerate(recipes):
        plan = folder / f"{number:03}-{recipe.method}-{recipe.quantization}-{recipe.sharding}"
        plan.mkdir()
        for file, text in export_plan(plan_file(recipe), name).files.items():
            (plan / file).write_text(text, encoding="utf-8")


def _environment(folder: Path, build: list[str], packages: list[str]) -> Path:
    """The Python of the environment, which is made when it is not there with these packages."""
    if not packages:
        return Path(sys.executable)
    python, installed = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join([*build, *packages])
    if installed.is_file() and installed.read_text(encoding="utf-8") == wanted:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, capture_output=True, text=True)
    inside = next((folder / "lib").glob("python*")) / "site-packages"
    (inside / "below.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")  # ftadvise[run]; what is installed here wins
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    for some in (build, packages):
        if some:
            environment = {**os.environ, "DS_BUILD_OPS": "0"}  # DeepSpeed's kernels are not needed to read a configuration
            subprocess.run([*pip, *some], check=True, capture_output=True, text=True, env=environment)
    installed.write_text(wanted, encoding="utf-8")
    return python


if __name__ == "__main__":
    main()
