"""Plans to export, names that must stay inert, and the reviewed examples."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from ftadvise.estimator.data_settings import DataSettings
from ftadvise.estimator.plan_file import MadeFor, PlanFile
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.hardware import GIB

GOLDEN_FOLDER = Path(__file__).parent / "golden_exports"
QLORA_7B: dict[str, Any] = {
    "model_id": "meta-llama/Llama-2-7b-hf", "quantization": "nf4", "double_quantization": True, "adapter_dtype": "bf16",
    "seq_len": 2048, "micro_batch": 2, "gradient_accumulation": 8, "loss": "fused",
}  # fmt: skip
_PIECES = (
    "'", '"', "\n", "\r\n", " ", "$(touch pwned)", "`touch pwned`", "; touch pwned;", "&& touch pwned", "\\", "#", "{{x}}", "{x}", "${x}",
    "%s", "*/", '"""', "'''", "\u2028", "\x85", "é", "模型", "-", "--", "!", "=", ": ", "- ", "org/model", ".jsonl", "\nEOF\n", "\t", "@",
)  # fmt: skip
HOSTILE = st.lists(st.sampled_from(_PIECES), min_size=1, max_size=6).map("".join)
"""Names made of what shells, YAML, Python and here-documents react to."""


def a_plan(
    gpu: str | None = "RTX 4090",
    memory_gib: int = 24,
    count: int = 1,
    model_id: str = "org/model",
    local_path: str | None = None,
    data_path: str | None = None,
    predicted: dict[str, Any] | None = None,
    **recipe: Any,
) -> PlanFile:
    """A plan for `count` GPUs of this name, or for the CPU."""
    made_for = MadeFor("cuda", gpu, memory_gib * GIB, count, 64 * GIB) if gpu else MadeFor("cpu", None, 0, 0, 16 * GIB)
    return PlanFile(
        model_id=model_id,
        parameters=7_000_000_000,
        local_path=local_path,
        made_for=made_for,
        stack={"name": "trl", "versions": {}},
        recipe=Recipe(**recipe),
        data=DataSettings(data_path),
        predicted=predicted or {"memory": {}, "throughput": None},
        ftadvise_version="0.1.0",
        created="2026-11-22T00:00:00+00:00",
    )


def golden(name: str, text: str) -> None:
    """`text` is the reviewed example `name`. FTADVISE_UPDATE_GOLDEN=1 writes it anew: read what changed."""
    path = GOLDEN_FOLDER / name
    if os.environ.get("FTADVISE_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    assert path.read_text(encoding="utf-8") == text, f"read the difference, then FTADVISE_UPDATE_GOLDEN=1 pytest ({path.name})"


def words(line: str) -> list[str]:
    """The words that a POSIX shell makes of a command without expansions."""
    return shlex.split(line)
