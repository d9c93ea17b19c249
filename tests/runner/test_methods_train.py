"""Every method once and every quantisation once: the loss falls, and what is saved is what was trained."""

from __future__ import annotations

import gc
import json
import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import tiny_training
import torch

from ftadvise.estimator.peft_settings import adalora_schedule, orthogonality_penalty
from ftadvise.estimator.recipe import Recipe
from ftadvise.runner.adapters import wrap_with_adapter
from ftadvise.runner.finished_run import with_adapter
from ftadvise.runner.load_model import load_model
from ftadvise.runner.quiet import ignoring, quiet_libraries
from ftadvise.runner.rehearse import synthetic_tokenizer
from ftadvise.runner.save_trained import _HARMLESS
from ftadvise.runner.trainer import build_trainer

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore::UserWarning:transformers", "ignore::FutureWarning:trl")]
RECIPE = Recipe(**tiny_training.RECIPE)
NF4 = {"quantization": "nf4", "double_quantization": True}
CASES: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora"},
    "qlora bf16": {"method": "lora", **NF4, "compute_dtype": "bf16", "adapter_dtype": "bf16", "gradient_checkpointing": True},
    "rslora int8": {"method": "lora", "rslora": True, "quantization": "int8"},
    "dora fp4": {"method": "dora", "quantization": "fp4"},
    "adalora nf4": {"method": "adalora", "quantization": "nf4", "alpha": 32, "learning_rate": 5e-2, "max_steps": 16},
    "ia3 fp4 double": {"method": "ia3", "quantization": "fp4", "double_quantization": True, "learning_rate": 5e-2},
    "prefix": {"method": "prefix", "learning_rate": 5e-2},
    "prompt": {"method": "prompt", "learning_rate": 1e-2, "max_steps": 24},
    "adapter nf4": {"method": "adapter", **NF4},
    "full": {"method": "full", "learning_rate": 3e-3},
    "packed": {"method": "lora", "packing": True},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_training.save_tiny_base(tmp_path_factory.mktemp("base"))


def trained(base: Path, folder: Path, **fields: Any) -> Any:
    """A trainer that has trained on three rows again and again."""
    steady = {"dropout": 0.0, "gradient_accumulation": 2, "schedule": "constant", "learning_rate": 2e-2, "max_steps": 8}
    recipe = Recipe(**{**tiny_training.RECIPE, **steady, **fields})
    rows = tiny_training.tiny_rows()[:3] * 4
    with quiet_libraries():
        model = wrap_with_adapter(load_model(base, recipe, "cpu"), recipe, str(base))
        trainer = build_trainer(model, synthetic_tokenizer(tiny_training.VOCABULARY), rows, recipe, "cpu", folder, save=False)
        trainer.train()
    return trainer


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def logits(model: Any) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits.float()
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_loss_falls_and_the_saved_adapter_answers_like_the_trained_one(base: Path, tmp_path: Path, name: str) -> None:
    recipe = Recipe(**{**tiny_training.RECIPE, **CASES[name]})
    trainer = trained(base, tmp_path / "checkpoints", **CASES[name])
    found = losses(trainer)
    third = len(found) // 3  # the rows of a step vary
    assert sum(found[-third:]) < sum(found[:third]) - 0.005 * third, found
    if recipe.method == "full":
        return
    with ignoring(*_HARMLESS):
        trainer.model.save_pretrained(tmp_path / "adapter")
    files = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert files == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    untrained = load_model(base, recipe, "cpu")
    untouched = logits(untrained)
    loaded = with_adapter(untrained, tmp_path / "adapter", "cpu")
    rounding = 2e-2 if recipe.compute_dtype == "bf16" else 1e-4
    assert torch.allclose(logits(loaded), logits(trainer.model), atol=rounding, rtol=rounding)
    assert not torch.allclose(logits(loaded)[:, -4:], untouched, atol=1e-3)  # prompt tuning answers for its virtual tokens as well
    gc.collect()


def test_rslora_scales_by_the_root_of_the_rank(base: Path) -> None:
    recipe = Recipe(**{**tiny_training.RECIPE, "rank": 16, "alpha": 8})
    scalings = []
    for rslora in (False, True):
        model = wrap_with_adapter(load_model(base, recipe, "cpu"), recipe.replace(rslora=rslora), str(base))
        scalings.append({module.scaling["default"] for module in model.modules() if hasattr(module, "lora_A")})
    assert scalings == [{8 / 16}, {8 / 4}]


def test_adalora_prunes_to_the_target_over_the_steps_that_are_really_taken(base: Path, tmp_path: Path) -> None:
    trainer, rank = trained(base, tmp_path, method="adalora", learning_rate=5e-2, max_steps=20), 4
    config = trainer.model.peft_config["default"]
    assert {name: getattr(config, name) for name in adalora_schedule(20)} == adalora_schedule(20)
    layers = 2 * 7
    kept = sum(sum(pattern) for pattern in config.rank_pattern.values())
    assert (config.init_r * layers, kept) == (6 * layers, rank * layers)
    left = {n: (p != 0).sum().item() for n, p in trainer.model.named_parameters() if ".lora_E." in n}
    assert sum(left.values()) == kept, "what is pruned stays zero to the last step"
    assert len(set(left.values())) > 1, "ranks move between layers"
    assert not any(p.requires_grad for n, p in trainer.model.named_parameters() if "ranknum" in n)
    assert not any("adalora" in key for state in trainer.optimizer.state.values() for key in state), "the averages go with the pruning"
    with ignoring(*_HARMLESS):
        trainer.model.save_pretrained(tmp_path / "adapter")
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert sum(sum(pattern) for pattern in saved["rank_pattern"].values()) == kept


@pytest.mark.parametrize("steps", [1, 2])
def test_adalora_of_a_few_steps_still_ends_with_its_target(base: Path, tmp_path: Path, steps: int) -> None:
    trainer = trained(base, tmp_path, method="adalora", max_steps=steps)
    assert sum(sum(pattern) for pattern in trainer.model.peft_config["default"].rank_pattern.values()) <= 4 * 14


def test_adaloras_penalty_reaches_the_gradient_but_not_the_reported_loss(base: Path, tmp_path: Path) -> None:
    """At the start the values between A and B are zero, so the data gives A and B no gradient: what moves them is the penalty."""
    rate = 1e-3
    trainer = trained(base, tmp_path, method="adalora", max_steps=1, max_grad_norm=0.0, optimizer="sgd", learning_rate=rate)
    fresh = wrap_with_adapter(load_model(base, RECIPE, "cpu"), RECIPE.replace(method="adalora"), str(base))
    start = {name: parameter for name, parameter in fresh.named_parameters() if ".lora_A." in name}
    gradients = torch.autograd.grad(orthogonality_penalty(fresh), list(start.values()))
    now = dict(trainer.model.named_parameters())
    for (name, before), gradient in zip(start.items(), gradients, strict=True):
        assert gradient.abs().max() > 0
        assert torch.allclose(now[name], before - rate * gradient, atol=1e-6), name
    assert losses(trainer)[0] == pytest.approx(math.log(tiny_training.VOCABULARY), abs=0.5), "that of the data alone"


def test_a_bottleneck_adapter_begins_as_the_identity_and_is_never_merged(base: Path) -> None:
    recipe = Recipe(**tiny_training.RECIPE, method="adapter")
    plain = load_model(base, recipe, "cpu")
    before = logits(plain)
    model = wrap_with_adapter(plain, recipe, str(base))
    assert torch.equal(logits(model), before)
    with model.disable_adapter():
        assert torch.equal(logits(model), before)
    with pytest.raises(NotImplementedError, match="cannot be merged"):
        model.merge_and_unload()
