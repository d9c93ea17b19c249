"""Golden choices: what is recommended for 40 well-known pairs, with what decided, in a few lines each, reviewed by eye.

Set FTADVISE_UPDATE_GOLDEN=1 to write them anew, then read the diff. The whole text of some plans is in test_golden_plans.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import ftadvise
from ftadvise.advisor.plan_types import NoPlanError, Plan
from ftadvise.rendering.estimate_view import recipe_line
from ftadvise.rendering.units import gib, rate

FOLDER = Path(__file__).parent / "golden" / "choices"
PAIRS = [
    ("SmolLM2-135M-Instruct", "cpu"),
    ("SmolLM2-135M-Instruct", "RTX 3060 12GB"),
    ("Qwen2.5-0.5B", "RTX 4090"),
    ("TinyLlama-1.1B-Chat-v1.0", "RTX 2080 Ti"),
    ("Qwen2.5-1.5B", "T4"),
    ("Qwen2.5-1.5B", "A100-80GB"),
    ("gemma-2-2b", "RTX 3060 12GB"),
    ("Llama-3.2-3B", "RTX 3090"),
    ("Phi-3-mini-4k-instruct", "RTX 4090"),
    ("Qwen3-4B", "RTX 4060 Ti 16GB"),
    ("chatglm3-6b", "RTX 3090"),
    ("Qwen-7B", "RTX 3060 12GB"),
    ("Qwen-7B", "RTX 4090"),
    ("Qwen-7B", "A100-80GB"),
    ("Llama-2-7b-hf", "RTX 3090"),
    ("Llama-2-7b-hf", "V100 SXM2 16GB"),
    ("Mistral-7B-v0.1", "RTX 4090"),
    ("Mistral-7B-v0.1", "A100 SXM4 40GB"),
    ("Qwen2.5-7B", "L4"),
    ("Qwen2.5-7B", "2x RTX 3090"),
    ("Llama-3.1-8B", "T4"),
    ("Llama-3.1-8B", "RTX 3070"),
    ("Llama-3.1-8B", "RTX 4090"),
    ("Llama-3.1-8B", "H100"),
    ("Llama-3.1-8B", "8x H100"),
    ("gemma-2-9b", "RTX 4090"),
    ("Baichuan2-13B-Base", "RTX 4090"),
    ("Llama-2-13b-hf", "A100-80GB"),
    ("Qwen2.5-14B", "RTX 3090"),
    ("Qwen2.5-14B", "L40S"),
    ("Qwen3-8B", "RTX 5090"),
    ("Qwen2.5-32B", "RTX 4090"),
    ("Qwen2.5-32B", "A100-80GB"),
    ("Yi-34B", "2x RTX 4090"),
    ("Mixtral-8x7B-v0.1", "H200 SXM 141GB"),
    ("Llama-2-70b-hf", "RTX 4090"),
    ("Llama-2-70b-hf", "2x RTX 4090"),
    ("Llama-2-70b-hf", "A100-80GB"),
    ("Llama-2-70b-hf", "4x A100-80GB"),
    ("Qwen2.5-72B", "8x H100"),
]


def choice(model: str, gpu: str) -> str:
    """The plan, or why there is none, in a few lines."""
    try:
        plan = ftadvise.plan(model, gpu=gpu)
    except NoPlanError as error:
        return "\n".join([f"{model} on {gpu}", f"  {error.message.en}", *(f"  - {change.text.en}" for change in error.changes)]) + "\n"
    return "\n".join([f"{model} on {gpu}", *(f"  {line}" for line in _lines(plan))]) + "\n"


def _lines(plan: Plan) -> list[str]:
    memory, speed, recipe = plan.estimate.memory, plan.estimate.throughput, plan.recipe
    lines = [recipe_line(recipe, "en").plain]
    if recipe.sharding != "none":
        lines.append(f"sharding {recipe.sharding}, offload {recipe.offload}")
    tokens = f", {rate(speed.tokens_per_second)} tokens/s" if speed else ""
    lines.append(f"{gib(memory.device_used_bytes)} of {gib(memory.available_bytes)}, {memory.verdict}{tokens}")
    decided = [each for each in plan.reasons if each.group != "choice" and (each.weight or each.rule.startswith("planner.chosen"))]
    lines += [f"{each.rule} {each.outcome}: {(each.detail or each.sentence).en}" for each in decided]
    lines += [f"not {each.label} ({gib(each.estimate.memory.device_used_bytes)}): {each.reason.en}" for each in plan.alternatives]
    lines += [f"more: {row.text.en}: {gib(row.estimate.memory.device_used_bytes)}" for row in plan.sensitivity]
    lines += [f"for {plan.wanted.label}: {change.text.en}" for change in plan.wanted.changes] if plan.wanted else []
    return lines + [f"mind: {warning.en}" for warning in plan.warnings]


@pytest.mark.parametrize(("model", "gpu"), [pair for pair in PAIRS if pair[1] != "cpu"])
def test_choice_is_as_reviewed(model: str, gpu: str) -> None:
    text, path = choice(model, gpu), FOLDER / f"{model}-{gpu}.txt".replace(" ", "_")
    if os.environ.get("FTADVISE_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"{path.name} changed: review with FTADVISE_UPDATE_GOLDEN=1 and git diff"
