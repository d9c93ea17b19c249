"""Where weights are looked for, and what is said when they are not there. Nothing here reaches a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ftadvise.estimator.plan_file import PlanFile
from ftadvise.profiles.errors import InputError
from ftadvise.runner import weights
from ftadvise.runner.weights import WeightsMissingError, base_model_name, find_config_folder, find_model_folder, missing_files

MakePlan = Callable[..., PlanFile]


def _folder(path: Path, *names: str, index: list[str] | None = None) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (path / name).write_text("{}")
    if index is not None:
        weight_map = {f"layer.{number}": shard for number, shard in enumerate(index)}
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return path


@pytest.mark.parametrize(
    ("names", "index", "missing"),
    [
        (["config.json", "model.safetensors"], None, []),
        (["config.json"], None, ["model.safetensors"]),
        (["config.json", "pytorch_model.bin"], None, ["model.safetensors"]),
        (["model.safetensors"], None, ["config.json"]),
        (["config.json", "a.safetensors", "b.safetensors"], ["a.safetensors", "b.safetensors"], []),
        (["config.json", "a.safetensors"], ["a.safetensors", "b.safetensors", "c.safetensors"], ["b.safetensors", "c.safetensors"]),
    ],
)
def test_a_folder_is_complete_or_names_what_it_lacks(tmp_path: Path, names: list[str], index: list[str] | None, missing: list[str]) -> None:
    assert missing_files(_folder(tmp_path, *names, index=index)) == missing


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 5}'])
def test_a_broken_index_counts_as_missing(tmp_path: Path, content: str) -> None:
    _folder(tmp_path, "config.json")
    (tmp_path / "model.safetensors.index.json").write_text(content)
    assert missing_files(tmp_path) == ["model.safetensors.index.json"]


def test_a_local_folder_without_weights_offers_a_rehearsal(tmp_path: Path, make_plan: MakePlan) -> None:
    with pytest.raises(WeightsMissingError, match=r"looked for .*model\.safetensors") as caught:
        find_model_folder(make_plan(_folder(tmp_path / "m", "config.json")))
    assert "--rehearse" in str(caught.value.hint)


def test_a_folder_that_is_gone_is_named(tmp_path: Path, make_plan: MakePlan) -> None:
    with pytest.raises(InputError, match="is not there"):
        find_model_folder(make_plan(tmp_path / "gone"))


def test_without_network_the_cache_is_named_and_a_rehearsal_offered(
    tmp_path: Path, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said: list[str] = []
    with pytest.raises(WeightsMissingError, match=r"models--org--model/snapshots/\*/config\.json") as caught:
        find_model_folder(make_plan("org/model"), say=said.append)
    assert "--rehearse" in str(caught.value.hint)
    assert said == ["org/model is not in the cache; asking the hub"]


def test_a_name_that_is_no_hub_id_is_an_input_error(make_plan: MakePlan) -> None:
    with pytest.raises(InputError, match="not a model name"):
        find_model_folder(make_plan("../../etc/passwd"))


def test_a_complete_snapshot_is_used_without_asking(tmp_path: Path, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    snapshot = _folder(tmp_path / "models--org--model" / "snapshots" / "abc", "config.json", "model.safetensors")

    def snapshot_download(_name: str, *, local_files_only: bool = False, **_: object) -> str:
        assert local_files_only, "the network was asked although everything is there"
        return str(snapshot)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    plan = make_plan("org/model")
    assert find_model_folder(plan) == snapshot
    assert base_model_name(plan, snapshot) == "org/model"
    assert base_model_name(plan, tmp_path.parent / "elsewhere") == str(tmp_path.parent / "elsewhere")


def test_code_is_downloaded_only_when_trusted(make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked: list[list[str]] = []

    def snapshot_download(_name: str, *, allow_patterns: list[str], **_: object) -> str:
        asked.append(allow_patterns)
        return str(_folder(tmp_path, "config.json", "model.safetensors"))

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    for trusted in (False, True):
        find_model_folder(make_plan("org/model"), trust_remote_code=trusted)
    assert ["*.py" in patterns for patterns in asked] == [False, True]
    assert not any(pattern.endswith((".bin", ".pt", ".pkl", "*")) for patterns in asked for pattern in patterns), "no pickles"


def test_the_demo_model_comes_from_its_package(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "demo_gguf_path", lambda: tmp_path / "demo.gguf")
    monkeypatch.setattr(weights, "demo_model_folder", lambda _say: tmp_path)
    assert find_model_folder(make_plan("HuggingFaceTB/SmolLM2-135M-Instruct")) == tmp_path


def test_a_rehearsal_needs_only_a_config(tmp_path: Path, make_plan: MakePlan) -> None:
    assert find_config_folder(make_plan(_folder(tmp_path / "m", "config.json"))) == tmp_path / "m"
    assert find_config_folder(make_plan(_folder(tmp_path / "n"))) is None
