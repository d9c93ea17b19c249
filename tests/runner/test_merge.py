"""Merged models: the same answers as the adapter, from the files on the disk; what cannot be merged says why."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from ftadvise.profiles.cpu import Ram
from ftadvise.profiles.errors import InputError

pytest.importorskip("torch")
from made_runs import copy_of, make_run, small_base

from ftadvise.cli import main
from ftadvise.runner import merge
from ftadvise.runner.finished_run import FinishedRun, finished_run, load_tuned
from ftadvise.runner.merge import check_mergeable, merge_run, merged_bytes, merging_bytes


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base."""
    return small_base(tmp_path_factory.mktemp("merge") / "base")


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A LoRA run on it."""
    return make_run(tmp_path_factory.mktemp("merge-run") / "run", base)


def _logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=torch.arange(3, 43)[None]).logits


def _plain(folder: Path) -> Any:
    """A model as somebody without ftadvise and PEFT loads it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True).eval()


@pytest.mark.parametrize(("method", "rslora"), [("lora", False), ("lora", True), ("dora", False), ("adalora", False), ("ia3", False)])
def test_the_merged_model_answers_like_the_adapter(method: str, rslora: bool, base: Path, tmp_path: Path) -> None:
    import torch

    run = make_run(tmp_path / "run", base, method=method, rslora=rslora)
    merged = merge_run(run, tmp_path / "merged")
    tuned = load_tuned(run, "cpu")
    torch.testing.assert_close(_logits(_plain(tmp_path / "merged")), _logits(tuned), rtol=1e-4, atol=1e-4)
    assert merged.difference < 1e-3 < merged.effect
    assert (merged.dtype, merged.same_tokens, merged.trained_on) == ("fp32", 1.0, "none")
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= names
    assert "adapter_config.json" not in names
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["use_cache"] is True


def test_a_run_on_a_quantised_base_goes_into_the_unquantised_one(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    import torch

    run = make_run(tmp_path / "run", base, quantization="nf4", double_quantization=True)
    merged = merge_run(run, tmp_path / "merged")
    assert merged.trained_on == "nf4"
    plain = _plain(tmp_path / "merged")
    torch.testing.assert_close(_logits(plain), _logits(load_tuned(run, "cpu", quantized=False)), rtol=1e-4, atol=1e-4)
    assert not hasattr(plain.config, "quantization_config")
    assert "quantised to nf4" in (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_the_dtype_is_the_one_asked_for(dtype: Any, run: FinishedRun, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    merged = merge_run(run, tmp_path / "merged", dtype=dtype)
    weights = load_file(tmp_path / "merged" / "model.safetensors")
    assert {str(tensor.dtype) for tensor in weights.values()} == {{"bf16": "torch.bfloat16", "fp16": "torch.float16"}[dtype]}
    assert sum(tensor.nbytes for tensor in weights.values()) == merged.weights_bytes == merged_bytes(run, dtype)
    assert merged.difference < merged.effect


@pytest.mark.parametrize(
    ("method", "words"), [("prefix", "keys and values"), ("prompt", "in front of the text"), ("full", "nothing is left")]
)
def test_what_cannot_be_merged_says_why(method: str, words: str, run: FinishedRun) -> None:
    other = dataclasses.replace(run, recipe=run.recipe.replace(method=method))
    with pytest.raises(InputError, match=words) as caught:
        check_mergeable(other)
    assert caught.value.hint


def test_a_folder_that_is_there_is_not_touched(run: FinishedRun, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="already there"):
        merge_run(run, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_disk_and_memory_are_checked_before_anything_is_loaded(run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "load_tuned", lambda *_args, **_named: pytest.fail("loaded"))
    needed = merging_bytes(run, "fp32")
    monkeypatch.setattr(merge, "probe_ram", lambda _limits: Ram(1 << 40, needed - 1, 1 << 40))
    with pytest.raises(InputError, match="of RAM"):
        merge_run(run, tmp_path / "merged")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(1, 1, merged_bytes(run, "fp32")))
    with pytest.raises(InputError, match="not enough disk"):
        merge_run(run, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_merge_that_loses_the_adapter_leaves_nothing(run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the merged weights were wrong: the comparison is with what stands on the disk."""
    genuine = merge._merge_into

    def spoiled(model: Any, folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        genuine(model, folder)
        weights = load_file(folder / "model.safetensors")
        save_file({name: -tensor for name, tensor in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(merge, "_merge_into", spoiled)
    with pytest.raises(InputError, match="loses the adapter"):
        merge_run(run, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_no_numbers_are_refused(run: FinishedRun, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copy_of(run, tmp_path / "copy")
    path = folder / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor * float("nan") for name, tensor in load_file(path).items()}, path)
    with pytest.raises(InputError, match="cannot be merged"):
        merge_run(finished_run(folder), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_the_command(run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy_of(run, tmp_path / "run")

    def ftadvise(*arguments: str) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["merge", str(folder), *arguments])
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    code, out, _ = ftadvise("--json")
    document = json.loads(out)
    assert (code, document["schema"], document["folder"]) == (0, "ftadvise.merge/1", str(folder / "merged"))
    code, _, err = ftadvise()
    assert (code, "already there" in err) == (2, True)
    code, out, _ = ftadvise("-o", str(tmp_path / "deep" / "er"), "--dtype", "bf16", "--lang", "zh")
    assert (code, "已写入" in out, (tmp_path / "deep" / "er" / "model.safetensors").is_file()) == (0, True, True)
