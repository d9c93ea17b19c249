"""The rehearsal before training: it takes the longest rows, finds out of memory first, and leaves no trace in what is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.train

from ftadvise.estimator.recipe import Recipe  # noqa: E402
from ftadvise.runner.adapters import wrap_with_adapter  # noqa: E402
from ftadvise.runner.load_model import load_model, load_tokenizer  # noqa: E402
from ftadvise.runner.meter import make_meter  # noqa: E402
from ftadvise.runner.quiet import quiet_libraries  # noqa: E402
from ftadvise.runner.rehearsal_step import RehearsalStep, longest_rows  # noqa: E402
from ftadvise.runner.trainer import build_trainer  # noqa: E402

FAST: dict[str, Any] = {
    "compute_dtype": "fp32",
    "rank": 4,
    "alpha": 8,
    "dropout": 0.2,
    "micro_batch": 2,
    "gradient_accumulation": 2,
    "seq_len": 12,
    "gradient_checkpointing": False,
    "learning_rate": 5e-3,
    "warmup_ratio": 0.0,
    "max_steps": 3,
}


def _rows(count: int = 12) -> list[dict[str, list[int]]]:
    """Rows of 4, 5, 6, ... tokens."""
    return [{"input_ids": (ids := list(range(20 + n, 24 + 2 * n))), "labels": [-100, *ids[1:]]} for n in range(count)]


def _trained(tiny_model: Path, folder: Path, recipe: Recipe, *, rehearse: bool) -> tuple[list[float], list[Any], Any]:
    with quiet_libraries():
        tokenizer = load_tokenizer(tiny_model)
        model = wrap_with_adapter(load_model(tiny_model, recipe, "cpu"), recipe, "base")
        trainer = build_trainer(model, tokenizer, _rows(), recipe, "cpu", folder, save=False)
        meter = make_meter(trainer.model, "cpu")
        callback = RehearsalStep(trainer, meter, recipe)
        if rehearse:
            trainer.add_callback(callback)
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    logged = [entry.get("num_tokens") for entry in trainer.state.log_history]
    weights = [parameter.detach().clone() for parameter in trainer.model.parameters() if parameter.requires_grad]
    return [*losses, *(value or 0 for value in logged)], weights, (callback.batch, meter)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adamw_torch"},
        {"optimizer": "adamw_torch_fused", "gradient_accumulation": 1},
        {"optimizer": "adafactor", "method": "full"},
        {"optimizer": "sgd", "quantization": "nf4"},
        {"compute_dtype": "bf16", "gradient_checkpointing": True, "method": "dora"},
        {"method": "adalora", "max_steps": 8},
    ],
    ids=lambda changes: "-".join(str(value) for value in changes.values()),
)
def test_training_is_the_same_bit_for_bit(tiny_model: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    recipe = Recipe(**{**FAST, **changes})
    losses, weights, _ = _trained(tiny_model, tmp_path / "a", recipe, rehearse=False)
    rehearsed_losses, rehearsed_weights, (batch, meter) = _trained(tiny_model, tmp_path / "b", recipe, rehearse=True)
    assert losses == rehearsed_losses
    assert all(torch.equal(a, b) for a, b in zip(weights, rehearsed_weights, strict=True))
    assert (batch.sequences, batch.length) == (2, 12), "the longest rows, cut to seq_len"
    measured = meter.result()
    assert measured.metered_steps == 2
    assert measured.phases["optimizer_step"] > 0
    assert (measured.components.optimizer_state > 0) == (recipe.optimizer != "sgd")


def test_out_of_memory_shows_before_the_first_step(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(**FAST)
    with quiet_libraries():
        model = wrap_with_adapter(load_model(tiny_model, recipe, "cpu"), recipe, "base")
        trainer = build_trainer(model, load_tokenizer(tiny_model), _rows(), recipe, "cpu", tmp_path, save=False)
        forward = trainer.model.forward

        def small_memory(*args: Any, **inputs: Any) -> Any:
            if inputs["input_ids"].numel() >= 24:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return forward(*args, **inputs)

        monkeypatch.setattr(trainer.model, "forward", small_memory)
        trainer.add_callback(RehearsalStep(trainer, make_meter(trainer.model, "cpu"), recipe))
        with pytest.raises(torch.OutOfMemoryError):
            trainer.train()
    assert trainer.state.global_step == 0


def test_the_longest_rows_come_first_and_few_rows_are_enough() -> None:
    from datasets import Dataset

    dataset = Dataset.from_list(_rows(6)).shuffle(seed=1)
    assert [len(row["input_ids"]) for row in longest_rows(dataset, 3)] == [9, 8, 7]
    assert len(longest_rows(dataset, 100)) == 6
