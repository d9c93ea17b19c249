"""Resident memory of a process that has imported the training stack and holds no model. Feeds `cpu_process` of estimator/allocator.yaml.

Run: python benchmarks/process_memory.py
"""

from __future__ import annotations

import importlib
import importlib.metadata

import psutil

STACK = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets")


def main() -> None:
    """Import the stack, touch the trainer, print bytes and versions."""
    for name in STACK:
        importlib.import_module(name)
    importlib.import_module("trl").SFTTrainer  # noqa: B018 - lazy modules load on access
    resident_bytes = psutil.Process().memory_info().rss
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in STACK)
    print(f"{resident_bytes} bytes ({resident_bytes / 2**20:.0f} MiB) with {versions}")


if __name__ == "__main__":
    main()
