"""One case of the GPU benchmark, in the process that exists only for it: load, train a few steps, evaluate; peaks of every phase.

Run by gpu_memory.py: python benchmarks/gpu_case.py NAME --device cuda --answer FILE [--history FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import re
import statistics
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nvml_memory
from matrix import case_named, gpu_cases, shrunk
from training_case import Case, build, write_config

from ftadvise.estimator.stack import trl_loss

_HISTORY_EVENTS = 200_000
PHASES = ("load", "forward", "backward", "optimizer_step", "later_steps", "evaluation")


def measure(case: Case, device: str, *, history: Path | None = None) -> dict[str, Any]:
    """Train and evaluate the case; never raises for what the case does.

    Returns one row: status, peaks in bytes per phase (those before an out-of-memory too), NVML's figures, seconds per step.
    """
    from phase_meter import PhaseMeter

    from ftadvise.profiles.errors import InputError
    from ftadvise.runner.quiet import quiet_libraries

    row: dict[str, Any] = {"status": "ok", "reason": "", "asked_bytes": ""}
    before = nvml_memory.used_by_uuid() if device == "cuda" else {}
    asked = _watch_out_of_memory(device)
    if history is not None and device == "cuda":
        _record_history(True)
    meter = PhaseMeter(device)
    try:
        with tempfile.TemporaryDirectory() as scratch, quiet_libraries():
            row |= _run(case, device, meter, Path(scratch))
    except InputError as error:
        row |= {"status": "refused", "reason": str(error)}
    except Exception as error:  # noqa: BLE001 - what cannot be trained is a result, whatever library says so
        out_of_memory = type(error).__name__ == "OutOfMemoryError"
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        row |= {"status": "oom" if out_of_memory else "failed", "reason": reason, "asked_bytes": _asked_in(reason)}
    finally:
        meter.close()
    row |= _figures(meter, device, before, asked)
    if history is not None and device == "cuda":
        write_history(_record_history(False), history)
    return row


def _run(case: Case, device: str, meter: Any, folder: Path) -> dict[str, Any]:
    from phase_meter import METERED_STEPS, PhaseCallback
    from random_weights import load_random_model

    from ftadvise.runner.meter import _named_static

    write_config(case, folder)
    meter.enter("load")
    model = load_random_model(folder, case.recipe, device)
    meter.adopt([tensor for _, tensor in _named_static(model)])
    meter.enter(None)
    trainer = build(case, model, device, folder / "checkpoints")
    meter.adopt([tensor for _, tensor in _named_static(trainer.model)])
    callback = PhaseCallback(meter, trainer.model)
    trainer.add_callback(callback)
    try:
        trainer.train()
    finally:
        callback.unhook()
    trainer.remove_callback(callback)
    meter.enter("evaluation")
    rows = trainer.train_dataset.select(range(min(len(trainer.train_dataset), case.recipe.micro_batch)))
    trainer.args.per_device_eval_batch_size = case.recipe.micro_batch
    trainer.evaluate(rows)
    seconds = callback.seconds[METERED_STEPS:] or callback.seconds[-1:]
    trainable = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    return {
        "sequences": callback.batch[0],
        "padded_length": callback.batch[1],
        "trainable_parameters": trainable,
        "seconds_per_step": round(statistics.median(seconds), 4),
        "steps_timed": len(seconds),
    }


def _figures(meter: Any, device: str, before: dict[str, int], asked: list[int]) -> dict[str, Any]:
    row: dict[str, Any] = {f"{phase}_allocated_bytes": meter.allocated.get(phase, "") for phase in PHASES}
    row |= {f"{phase}_reserved_bytes": meter.reserved.get(phase, "") for phase in PHASES}
    row |= {
        "peak_allocated_bytes": max(meter.allocated.values(), default=""),
        "peak_reserved_bytes": max(meter.reserved.values(), default=""),
    }
    if asked:
        row["asked_bytes"] = asked[-1]  # the last one is the one that was not survived
    if device == "cuda":
        import torch

        uuid = nvml_memory.torch_uuid()
        now = nvml_memory.read(uuid)
        statistics_now = torch.cuda.memory_stats()
        row |= {
            "nvml_process_bytes": now.process_bytes if now.process_bytes is not None else "",
            "nvml_device_used_bytes": now.device_used_bytes,
            "nvml_device_before_bytes": before.get(uuid, ""),
            "reserved_now_bytes": torch.cuda.memory_reserved(),
            "allocator_retries": statistics_now.get("num_alloc_retries", 0),
        }
    return row


def _watch_out_of_memory(device: str) -> list[int]:
    """A list that receives the bytes of every allocation that CUDA refused."""
    asked: list[int] = []
    if device == "cuda":
        import torch

        torch.cuda.init()
        # a private function, so it may go away; the message of the error then has to do
        attach = getattr(torch._C, "_cuda_attach_out_of_memory_observer", None)
        if attach is not None:
            attach(lambda _device, size, _total, _free: asked.append(int(size)))
    return asked


def _asked_in(reason: str) -> int | str:
    """Bytes that the allocator's message says were asked for, to its two decimals; empty when it does not."""
    found = re.search(r"Tried to allocate ([\d.]+) (bytes|[KMG]iB)", reason)
    return round(float(found[1]) * {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[found[2]]) if found else ""


def _record_history(on: bool) -> list[dict[str, Any]]:
    """Switch the allocator's own record on, or off and return its events."""
    import torch

    if on:
        torch.cuda.memory._record_memory_history(enabled="all", context=None, max_entries=_HISTORY_EVENTS)
        return []
    snapshot = torch.cuda.memory._snapshot()
    torch.cuda.memory._record_memory_history(enabled=None)
    return list(snapshot["device_traces"][torch.cuda.current_device()])


def write_history(events: list[dict[str, Any]], file: Path) -> None:
    """The allocator's events as gzipped JSON lines: ["alloc" | "free" | "segment_alloc" | ..., block number, bytes].

    A block number names one address for as long as it is in use; addresses themselves are of no use to anyone.
    """
    names = {"free_completed": "free", "alloc": "alloc", "segment_alloc": "segment_alloc", "segment_free": "segment_free", "oom": "oom"}
    numbers: dict[tuple[bool, int], int] = {}
    count = 0
    with gzip.open(file, "wt", encoding="utf-8") as lines:
        for event in events:
            action = names.get(event["action"])
            if action is None:
                continue
            key = (action.startswith("segment"), int(event.get("addr", 0)))
            if action.endswith("alloc"):
                count += 1
                numbers[key] = count
            number = numbers.pop(key, 0) if action.endswith("free") else numbers.get(key, 0)
            lines.write(json.dumps([action, number, int(event["size"])]) + "\n")


def as_installed(case: Case) -> Case:
    """The case with the loss that the installed TRL computes."""
    if case.stack != "trl":
        return case
    return dataclasses.replace(case, recipe=case.recipe.replace(loss=trl_loss(version("trl"))))


def main() -> int:
    """Measure one case and write its row."""
    parser = argparse.ArgumentParser(description="one case of the GPU memory benchmark")
    parser.add_argument("name")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--answer", type=Path, required=True)
    parser.add_argument("--history", type=Path)
    arguments = parser.parse_args()
    case = case_named(arguments.name, gpu_cases())
    if arguments.device == "cpu":
        case = shrunk(case)
    case = as_installed(case)
    row = measure(case, arguments.device, history=arguments.history)
    row = {"recipe": json.dumps(case.recipe.to_dict()), "model": case.model, "stack": case.stack, "padded": case.padded} | row
    arguments.answer.write_text(json.dumps(row), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
