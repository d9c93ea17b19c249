"""The plain Python script of `ftadvise export --to python` trains exactly what `ftadvise run` trains."""

from __future__ import annotations

import io
import json
import runpy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from rich.console import Console

from ftadvise.advisor.export.plain_python import PYTHON, SCRIPT
from ftadvise.estimator.plan_file import PlanFile
from ftadvise.profiles.hardware import Hardware
from ftadvise.runner.supervisor import in_this_process, run_plan

NF4 = {"quantization": "nf4", "double_quantization": True, "adapter_dtype": "bf16", "gradient_checkpointing": True}
Trained = tuple[list[float], PlanFile, Path]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path, make_plan: Callable[..., PlanFile]) -> Callable[..., Trained]:
    """`train(**recipe)`: export a plan, run the script in an empty folder; its losses, the plan and the folder it wrote."""
    rows = [{"instruction": f"What is {n} plus one?", "output": f"The answer is {n + 1}, 答案是 {n + 1}."} for n in range(10)]
    rows += [{"instruction": "Say nothing.", "output": ""}, {"instruction": "long " * 60, "output": "cut off"}]
    data = tmp_path / "rows $(of) 'mine'.jsonl"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")

    def run(**recipe: Any) -> Trained:
        plan = make_plan(tiny_model, data, **{"max_steps": 5, "dropout": 0.1, **recipe})
        folder = tmp_path / "exported"
        folder.mkdir()
        for name, text in PYTHON.export(plan).files.items():
            (folder / name).write_text(text, encoding="utf-8")
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [SCRIPT])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the libraries say about each other is not the script's
            runpy.run_path(str(folder / SCRIPT), run_name="__main__")
        (state,) = folder.glob("ftadvise-output/checkpoints/*/trainer_state.json")
        log = json.loads(state.read_text(encoding="utf-8"))["log_history"]
        return [entry["loss"] for entry in log if "loss" in entry], plan, folder / "ftadvise-output"

    return run


@pytest.mark.train
@pytest.mark.parametrize(
    "recipe",
    [{"schedule": "cosine", "warmup_ratio": 0.2}, {**NF4, "packing": True}, {"method": "full", "compute_dtype": "bf16"}],
    ids=["lora", "qlora-packed", "full-bf16"],
)
def test_the_script_has_the_losses_of_ftadvise_run(
    train: Callable[..., Trained], tmp_path: Path, hardware: Hardware, recipe: dict[str, Any]
) -> None:
    losses, plan, output = train(**recipe)
    report = run_plan(plan, out_dir=tmp_path / "run", hardware=hardware, start=in_this_process(hardware, Console(file=io.StringIO())))
    assert len(losses) == 5
    assert losses == pytest.approx([loss for _, loss in report.losses], rel=1e-6), "same seed, same rows, same losses"
    assert report.saved is not None
    assert list((output / report.saved).glob("*.safetensors"))


@pytest.mark.train
@pytest.mark.parametrize(
    ("recipe", "trained"),
    [
        ({"method": "ia3", "quantization": "int8"}, "ia3_l"),
        ({"method": "adalora"}, "lora_"),
        ({"method": "prefix"}, "prompt_embeddings"),
        ({"loss": "full", "quantization": "nf4", "high_precision_modules": ("o_proj",)}, "lora_"),
    ],
    ids=["ia3-int8", "adalora", "prefix", "whole-logits"],
)
def test_what_our_runner_does_not_run_learns_too(train: Callable[..., Trained], recipe: dict[str, Any], trained: str) -> None:
    from safetensors import safe_open

    losses, _, output = train(**recipe, max_steps=8, learning_rate=5e-2, dropout=0.0)
    assert losses[-1] < losses[0] - 0.1, losses
    with safe_open(output / "adapter" / "adapter_model.safetensors", "pt") as file:
        names = list(file.keys())
    assert names
    assert all(trained in name for name in names), names
    config = json.loads((output / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config.get("feedforward_modules", ["down_proj"]) == ["down_proj"]
