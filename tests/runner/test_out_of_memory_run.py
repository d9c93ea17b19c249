"""Runs that run out of memory: they say what was asked and free, go on with less from the last checkpoint, and lose nothing."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.train

from ftadvise.estimator.plan_file import MadeFor, PlanFile, write_plan_file  # noqa: E402
from ftadvise.profiles.errors import OutOfMemoryError  # noqa: E402
from ftadvise.profiles.probe import probe  # noqa: E402
from ftadvise.runner import loop  # noqa: E402
from ftadvise.runner.callbacks import StepRecorder  # noqa: E402
from ftadvise.runner.out_of_memory import asked_and_free, explaining_out_of_memory  # noqa: E402

MakePlan = Callable[..., PlanFile]
RunHere = Callable[..., Any]
CUDA = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 23.68 GiB of which 1.25 GiB is free."


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    rows = [{"instruction": f"What is {n} plus one?", "output": f"The answer is {n + 1}."} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_in_the_middle_of_a_run_it_goes_on_from_the_last_checkpoint(
    tmp_path: Path, tiny_model: Path, data: Path, make_plan: MakePlan, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullAtStepSeven(StepRecorder):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            super().on_step_end(args, state, control, **more)
            if state.global_step == 7 and args.per_device_train_batch_size == 4:
                raise torch.OutOfMemoryError(CUDA)

    monkeypatch.setattr(loop, "StepRecorder", FullAtStepSeven)
    plan = make_plan(tiny_model, data, micro_batch=4, gradient_accumulation=1, max_steps=10, dropout=0.0)
    report = run_here(plan, tmp_path / "run")
    first, second = report.attempts
    assert (first["status"], first["to_step"]) == ("out_of_memory", 7)
    assert "2.50 GiB asked for, 1.25 GiB free" in first["message"]
    assert (second["status"], second["from_step"], second["to_step"]) == ("done", 6, 10)
    assert second["changes"] == {"micro_batch": [4, 2], "gradient_accumulation": [1, 2]}
    assert (report.recipe["micro_batch"], report.plan["recipe"]["micro_batch"]) == (2, 4)
    assert [step for step, _ in report.losses] == list(range(1, 11))
    monkeypatch.undo()
    whole = run_here(plan, tmp_path / "whole")
    assert [loss for _, loss in report.losses] == pytest.approx([loss for _, loss in whole.losses], abs=2e-4), "the same training"


def test_the_longest_batch_is_tried_before_anything_is_trained(
    tmp_path: Path, tiny_model: Path, data: Path, make_plan: MakePlan, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaModel

    forward = LlamaModel.forward

    def small_memory(self: Any, *args: Any, **inputs: Any) -> Any:
        if self.training and len(inputs["input_ids"]) > 2:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1073741824 bytes.")
        return forward(self, *args, **inputs)

    monkeypatch.setattr(LlamaModel, "forward", small_memory)
    report = run_here(make_plan(tiny_model, data, micro_batch=8, gradient_accumulation=1, max_steps=2), tmp_path / "run")
    assert [(a["status"], a["to_step"]) for a in report.attempts] == [("out_of_memory", 0), ("out_of_memory", 0), ("done", 2)]
    assert report.attempts[0]["message"] == "out of memory: 1.00 GiB asked for"
    assert (report.recipe["micro_batch"], report.recipe["gradient_accumulation"]) == (2, 4)
    with pytest.raises(OutOfMemoryError, match="asked for"):
        run_here(make_plan(tiny_model, data, micro_batch=8), tmp_path / "stop", fallback=False)
    assert not (tmp_path / "stop").exists()


_LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[1]) << 20,) * 2)
from ftadvise.cli import main
main(sys.argv[2:])
"""


@pytest.mark.long
def test_a_real_shortage_is_survived_in_fresh_processes(tmp_path: Path, tiny_model: Path, data: Path, make_plan: MakePlan) -> None:
    plan = make_plan(tiny_model, data, attention="eager", seq_len=256, packing=False, micro_batch=256, gradient_accumulation=1, max_steps=2)
    long_rows = [{"text": f"{n} " + "word " * 300} for n in range(300)]
    data.write_text("".join(json.dumps(row) + "\n" for row in long_rows), encoding="utf-8")
    write_plan_file(tmp_path / "plan.yaml", dataclasses.replace(plan, made_for=MadeFor.of(probe())))
    command = [sys.executable, "-c", _LIMITED, "2600", "run", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "run"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["attempts"][0]["status"] == "out_of_memory"
    assert report["attempts"][-1]["status"] == "done"
    assert report["recipe"]["micro_batch"] * report["recipe"]["gradient_accumulation"] == 256


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (CUDA, "2.50 GiB asked for, 1.25 GiB free"),
        ("Tried to allocate 512.00 MiB. GPU 0 has 8 GiB of which 20.00 MiB is free", "0.50 GiB asked for, 0.02 GiB free"),
        ("you tried to allocate 1073741824 bytes. Error code 12", "1.00 GiB asked for"),
        ("", "an allocation failed"),
        ("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate", "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    ],
)
def test_what_was_asked_for_and_what_was_free(message: str, said: str) -> None:
    assert asked_and_free(message) == said


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA error: out of memory"), torch.OutOfMemoryError(CUDA)])
def test_every_library_s_words_are_understood(error: Exception, make_plan: MakePlan) -> None:
    recipe = make_plan("m", micro_batch=5, gradient_accumulation=4, gradient_checkpointing=False).recipe
    with pytest.raises(OutOfMemoryError) as caught, explaining_out_of_memory(recipe):
        raise error
    hint = str(caught.value.hint)
    assert hint.endswith("micro_batch: 1 with gradient_accumulation: 20; gradient_checkpointing: true; seq_len: 20; quantization: nf4")
    with pytest.raises(RuntimeError, match="a bug"), explaining_out_of_memory(recipe):
        raise RuntimeError("a bug")
