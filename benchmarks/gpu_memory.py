"""The matrix of recipes on the CUDA device at hand: measured memory of every phase, one fresh process per case.

Models are real architectures with random weights, created through transformers' own loader; nothing is downloaded. Each case is trained
for a few steps by the code that really trains (runner/, or transformers' Trainer), then evaluated. A case that runs out of memory is a
result. Rows are appended as they are measured: start it again and it goes on where it stopped.

Run: python benchmarks/gpu_memory.py [--budget-minutes 30] [--only TEXT] [--list] [--no-probes] [--results FILE] [--device cpu]
Writes benchmarks/results/gpu_memory.csv, gpu_probes.csv beside it, and for a few cases the allocator's events
(gpu_history/CASE.jsonl.gz). `--device cpu` tries all of it on tiny models, without any meaning in the figures; it needs --results.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nvml_memory
from matrix import HISTORIES, gpu_cases
from training_case import Case

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "gpu_memory.csv"
LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes")
CASE_LIMIT_S = 600
"""A case that takes longer is stopped and recorded as "timeout"."""


def versions(device: str) -> dict[str, str]:
    """The columns that say what measured a row."""
    found = {name: _installed(name) for name in LIBRARIES}
    return found | {"python": sys.version.split()[0], "driver": nvml_memory.driver_version(), "gpu": gpu_name(device)}


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def gpu_name(device: str) -> str:
    """The name of the GPU, or "cpu"."""
    if device == "cpu":
        return "cpu"
    import pynvml

    pynvml.nvmlInit()
    return str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0)))


def measured_names(results: Path) -> set[str]:
    """Cases that the CSV has already."""
    if not results.is_file():
        return set()
    with results.open(newline="", encoding="utf-8") as file:
        return {row["case"] for row in csv.DictReader(file)}


def append_row(results: Path, row: dict[str, Any]) -> None:
    """Add a row; a column that the file does not have yet rewrites it with that column."""
    old: list[dict[str, Any]] = []
    fields = list(row)
    if results.is_file():
        with results.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            old, fields = list(reader), list(reader.fieldnames or [])
        fields += [name for name in row if name not in fields]
    part = results.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, restval="")
        writer.writeheader()
        writer.writerows([*old, row])
    part.replace(results)


def run_case(case: Case, device: str, results: Path, limit_s: float) -> dict[str, Any]:
    """The case's row, measured in a process of its own; whatever happens to that process is in the row."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch) / "row.json"
        command = [sys.executable, str(HERE / "gpu_case.py"), case.name, "--device", device, "--answer", str(answer)]
        if case.name in HISTORIES:
            folder = results.parent / "gpu_history"
            folder.mkdir(parents=True, exist_ok=True)
            command += ["--history", str(folder / f"{file_name(case.name)}.jsonl.gz")]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s)
            row = json.loads(answer.read_text(encoding="utf-8")) if answer.is_file() else _broken(done.returncode, done.stderr)
        except subprocess.TimeoutExpired:
            row = {"status": "timeout", "reason": f"stopped after {limit_s:.0f} s"}
    return {"case": case.name, **row, "wall_seconds": round(time.perf_counter() - started, 1)}


def _broken(code: int, stderr: str) -> dict[str, Any]:
    """A process that ended without an answer (killed for memory, a crash in a driver)."""
    last = stderr.strip().splitlines()[-1:] or [""]
    return {"status": "broken", "reason": f"exit code {code}: {last[0][:300]}"}


def file_name(case_name: str) -> str:
    """The case's name as a file name."""
    return "".join(c if c.isalnum() or c in "-._" else "_" for c in case_name)


def probe(device: str, results: Path) -> None:
    """Calibration figures of the device into gpu_probes.csv, once."""
    target = results.with_name("gpu_probes.csv")
    if target.is_file():
        return
    command = [sys.executable, str(HERE / "gpu_probes.py"), "--device", device]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=CASE_LIMIT_S)
    if done.returncode:
        print(f"probes failed: {_broken(done.returncode, done.stderr)['reason']}", file=sys.stderr)
        return
    known = versions(device)
    for name, value, unit in json.loads(done.stdout.strip().splitlines()[-1]):
        append_row(target, {"probe": name, "value": value, "unit": unit, **known})
        print(f"{name:44s} {value:>16,} {unit}", flush=True)


def main() -> int:
    """Measure what the budget allows."""
    parser = argparse.ArgumentParser(description="measured memory of real training steps on this GPU")
    parser.add_argument("--budget-minutes", type=float, default=30.0, help="start no case after this many minutes (default 30)")
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    parser.add_argument("--list", action="store_true", help="name the cases in their order and stop")
    parser.add_argument("--no-probes", action="store_true", help="leave the calibration figures out")
    parser.add_argument("--results", type=Path, help=f"the CSV to append to (default {RESULTS.name} in benchmarks/results)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments = parser.parse_args()
    cases = [case for case in gpu_cases() if arguments.only in case.name]
    if arguments.list:
        print("\n".join(case.name for case in cases))
        return 0
    if arguments.device == "cpu" and arguments.results is None:
        parser.error("--device cpu measures nothing of interest: give it a --results file of its own")
    if arguments.device == "cuda" and not nvml_memory.driver_version():
        print("no NVIDIA driver here: nothing to measure (--device cpu tries the benchmark itself)", file=sys.stderr)
        return 2
    results: Path = arguments.results or RESULTS
    results.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * arguments.budget_minutes
    known = versions(arguments.device)
    if not arguments.no_probes:
        probe(arguments.device, results)
    done = measured_names(results)
    left = [case for case in cases if case.name not in done]
    for number, case in enumerate(left, 1):
        seconds_left = end - time.monotonic()
        if seconds_left <= 0:
            print(f"the budget is spent; {len(left) - number + 1} cases are left", file=sys.stderr)
            break
        row = run_case(case, arguments.device, results, min(CASE_LIMIT_S, seconds_left + 60)) | known
        if row["status"] != "timeout" or seconds_left > CASE_LIMIT_S:  # a case that only the budget stopped is measured next time
            append_row(results, row)
        gib = f"{row['peak_allocated_bytes'] / 2**30:8.3f} GiB" if row.get("peak_allocated_bytes") else ""
        print(
            f"[{number}/{len(left)}] {case.name:50s} {row['status']:8s} {gib} {row['wall_seconds']:6.1f} s {row['reason'][:100]}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
