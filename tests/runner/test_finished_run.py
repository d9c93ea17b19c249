"""A finished run opened again: what it needs is there, or one line says what is not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from ftadvise.profiles.errors import InputError
from ftadvise.runner.report import write_report

pytest.importorskip("torch")
from made_reports import made_report
from made_runs import copy_of, make_run, small_base

from ftadvise.runner.finished_run import FinishedRun, finished_run, load_base, load_run_tokenizer, load_tuned


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base."""
    return small_base(tmp_path_factory.mktemp("finished") / "base")


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A LoRA run with a random adapter."""
    return make_run(tmp_path_factory.mktemp("finished-run") / "run", base)


def _logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor([[1, 5, 9, 200]])).logits


def test_a_run_names_its_folders(run: FinishedRun, base: Path) -> None:
    assert (run.adapter, run.model, run.base) == (run.folder / "adapter", None, base)
    assert run.trained == run.adapter
    assert run.base_id == base.name
    assert load_run_tokenizer(run).pad_token


def test_the_adapter_changes_the_base_and_can_be_switched_off(run: FinishedRun) -> None:
    import torch

    alone, tuned = _logits(load_base(run, "cpu")), load_tuned(run, "cpu")
    assert not tuned.training
    assert not any(parameter.requires_grad for parameter in tuned.parameters())
    assert (alone - _logits(tuned)).abs().max() > 0.01
    with tuned.disable_adapter():
        torch.testing.assert_close(_logits(tuned), alone)


@pytest.mark.parametrize("method", ["dora", "adalora", "ia3", "prefix", "prompt"])
def test_every_peft_method_comes_back_as_it_was_saved(method: str, base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    run = make_run(tmp_path / "run", base, method=method)
    assert run.adapter is not None
    saved, loaded = load_file(run.adapter / "adapter_model.safetensors"), dict(load_tuned(run, "cpu").named_parameters())
    for name, tensor in saved.items():
        here = [p for key, p in loaded.items() if p.shape == tensor.shape and p.equal(tensor)]
        assert here, name


def test_full_fine_tuning_needs_its_base_only_when_asked(base: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", base, method="full")
    assert (run.adapter, run.model, run.base) == (None, run.folder / "model", None)
    assert finished_run(run.folder, with_base=True).base == base
    assert _logits(load_tuned(run, "cpu")).shape[-1] == 259
    with pytest.raises(InputError, match="was not looked for"):
        load_base(run, "cpu")


def _break(folder: Path, how: str) -> None:
    weights, config = folder / "adapter" / "adapter_model.safetensors", folder / "adapter" / "adapter_config.json"
    if how == "no report":
        (folder / "report.json").unlink()
        (folder / "run.json").write_text("{}")
    elif how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "no weights":
        weights.unlink()
    elif how == "pickle":
        weights.rename(folder / "adapter" / "adapter_model.bin")
    elif how == "config":
        config.write_text("[" * 100_000)
    elif how == "other config":
        config.write_text("{}")
    elif how == "no adapter":
        (folder / "adapter").rename(folder / "elsewhere")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no report", "has not finished"),
        ("truncated", "damaged"),
        ("no weights", "adapter is missing"),
        ("pickle", "adapter is missing"),
        ("config", "cannot be read"),
        ("other config", "no peft_type"),
        ("no adapter", "trained weights are gone"),
    ],
)
def test_a_damaged_run_is_one_line(how: str, words: str, run: FinishedRun, tmp_path: Path) -> None:
    folder = copy_of(run, tmp_path / "copy")
    _break(folder, how)
    with pytest.raises(InputError, match=words) as caught:
        finished_run(folder)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"rehearsal": True}, "rehearsal"), ({"saved": None}, "saved no weights"), ({"saved": "../elsewhere"}, "saved no weights")],
)
def test_a_run_that_saved_nothing_is_refused(changes: dict[str, Any], words: str, base: Path, tmp_path: Path) -> None:
    write_report(tmp_path, dataclasses.replace(made_report(base), **changes))
    with pytest.raises(InputError, match=words):
        finished_run(tmp_path)


def test_a_base_that_is_gone_is_named(run: FinishedRun, tmp_path: Path) -> None:
    folder = copy_of(run, tmp_path / "copy")
    report = json.loads((folder / "report.json").read_text())
    report["plan"]["model"]["local_path"] = str(tmp_path / "gone")
    (folder / "report.json").write_text(json.dumps(report))
    with pytest.raises(InputError, match="base model is gone"):
        finished_run(folder)
    report["plan"]["model"] = {"id": 5}
    (folder / "report.json").write_text(json.dumps(report))
    with pytest.raises(InputError, match="which model was trained"):
        finished_run(folder)


def test_an_adapter_that_lacks_weights_is_refused(run: FinishedRun, tmp_path: Path) -> None:
    """PEFT would only warn and answer with random numbers."""
    from safetensors.torch import load_file, save_file

    folder = copy_of(run, tmp_path / "copy")
    path = folder / "adapter" / "adapter_model.safetensors"
    save_file(dict(list(load_file(path).items())[1:]), path)
    with pytest.raises(InputError, match="cannot be put on its base"):
        load_tuned(finished_run(folder), "cpu")


def test_an_adapter_of_another_base_is_refused(run: FinishedRun, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copy_of(run, tmp_path / "copy")
    path = folder / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor[:, :-1].contiguous() if tensor.ndim == 2 else tensor for name, tensor in load_file(path).items()}, path)
    with pytest.raises(InputError, match="cannot be put on its base"):
        load_tuned(finished_run(folder), "cpu")
