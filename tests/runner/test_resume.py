"""A run that was interrupted and resumed is the run that was not: the same losses, the same weights, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from tiny_training import figures, save_tiny_base, stop_after, tiny_rows, tiny_trainer, trained, weights

from ftadvise.profiles.errors import InputError
from ftadvise.runner.checkpoints import all_checkpoints, last_checkpoint

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("base"))


def _same_as_uninterrupted(base: Path, tmp_path: Path, *stops: Any, eval_rows: Any = None, **recipe: Any) -> None:
    whole = trained(tiny_trainer(base, tmp_path / "whole", eval_rows=eval_rows, **recipe))
    for number, stop in enumerate(stops):
        trained(tiny_trainer(base, tmp_path / "run", stop, eval_rows=eval_rows, **recipe), resume=number > 0)
    _check_same(trained(tiny_trainer(base, tmp_path / "run", eval_rows=eval_rows, **recipe), resume=True), whole)


def _check_same(rest: Any, whole: Any) -> None:
    assert figures(rest) == figures(whole)
    assert [step for step, _, _ in figures(rest)] == list(range(1, 8))
    assert weights(rest) == weights(whole)


@pytest.mark.parametrize(
    ("recipe", "step"),
    [
        ({}, 4),  # the end of an epoch
        ({"packing": True, "gradient_checkpointing": True}, 5),
        ({"quantization": "nf4", "double_quantization": True, "adapter_dtype": "bf16"}, 5),
        ({"method": "adalora"}, 6),
        ({"method": "full", "compute_dtype": "bf16"}, 5),
        ({"optimizer": "adafactor", "adapter_dtype": "bf16"}, 5),
        ({}, 7),  # nothing is left to train
    ],
    ids=["end of epoch", "packed", "qlora", "adalora", "full", "adafactor bf16", "last step"],
)
def test_resumed_is_uninterrupted(base: Path, tmp_path: Path, recipe: dict[str, Any], step: int) -> None:
    """Killed some time after `step`: of what the uninterrupted run saved, nothing later is left."""
    whole = trained(tiny_trainer(base, tmp_path, save_steps=step, **recipe))
    for path in all_checkpoints(tmp_path):
        if path.name > f"checkpoint-{step}":
            shutil.rmtree(path)
    _check_same(trained(tiny_trainer(base, tmp_path, **recipe), resume=True), whole)


@pytest.mark.long
@pytest.mark.parametrize("method", ["dora", "ia3", "prefix", "prompt", "adapter", "adalora", "full"])
@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_resumed_is_uninterrupted_with_every_method(base: Path, tmp_path: Path, method: str, compute: str) -> None:
    _same_as_uninterrupted(base, tmp_path, stop_after(2), stop_after(5), method=method, compute_dtype=compute)


@pytest.mark.long
@pytest.mark.parametrize("optimizer", ["adamw_torch_fused", "sgd", "adafactor"])
@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_resumed_is_uninterrupted_with_every_optimizer(base: Path, tmp_path: Path, optimizer: str, quantization: str) -> None:
    _same_as_uninterrupted(base, tmp_path, stop_after(3), optimizer=optimizer, quantization=quantization, adapter_dtype="bf16")


def test_stopped_in_the_middle_of_steps_and_evaluated_in_between(base: Path, tmp_path: Path) -> None:
    """Dropout has drawn for the micro batch that is given up; the evaluations after steps 2, 4 and 6 draw as well."""
    _same_as_uninterrupted(base, tmp_path, stop_after(within=1), stop_after(within=4), eval_rows=tiny_rows()[:3])


@pytest.mark.long
def test_evaluation_does_not_change_the_training(base: Path, tmp_path: Path) -> None:
    without = trained(tiny_trainer(base, tmp_path / "a"))
    assert figures(trained(tiny_trainer(base, tmp_path / "b", eval_rows=tiny_rows()[:3]))) == figures(without)


def test_half_the_micro_batch_goes_on_with_the_same_sequences(base: Path, tmp_path: Path) -> None:
    """The fall-back after out of memory: a step sees the same rows, so its loss is the same but for rounding."""
    shape = {"micro_batch": 4, "gradient_accumulation": 2, "dropout": 0.0}
    whole = trained(tiny_trainer(base, tmp_path / "whole", **shape))
    trained(tiny_trainer(base, tmp_path / "run", stop_after(4), **shape))
    smaller = {"micro_batch": 2, "gradient_accumulation": 4, "dropout": 0.0}
    rest = trained(tiny_trainer(base, tmp_path / "run", **smaller), resume=True)
    assert [loss for _, loss, _ in figures(rest)] == pytest.approx([loss for _, loss, _ in figures(whole)], rel=1e-4)


def test_a_checkpoint_of_another_recipe_is_refused(base: Path, tmp_path: Path) -> None:
    trained(tiny_trainer(base, tmp_path, stop_after(1)))
    for recipe in ({"rank": 8}, {"target_modules": ("q_proj",)}, {"adapter_dtype": "bf16"}):
        with pytest.raises(InputError, match="of another model or recipe"):
            trained(tiny_trainer(base, tmp_path, **recipe), resume=True)


def test_a_checkpoint_holds_no_pickle_that_could_run_code(base: Path, tmp_path: Path) -> None:
    import torch

    trained(tiny_trainer(base, tmp_path, save_steps=3))
    assert [path.name for path in all_checkpoints(tmp_path)] == ["checkpoint-6", "checkpoint-7"]
    folder = last_checkpoint(tmp_path)
    assert folder is not None
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["manifest.json", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trained.safetensors", "trainer_state.json"]
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.load(folder / name, weights_only=True)
