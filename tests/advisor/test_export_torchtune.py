"""torchtune configurations: known models only, whole MLPs, steps per epoch. `make check-exports` asks torchtune itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from export_plans import HOSTILE, QLORA_7B, a_plan, golden
from hypothesis import given

from ftadvise.advisor.export.torchtune import CONFIG, TORCHTUNE, _table
from ftadvise.estimator.plan_file import PlanFile
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.resolve_model import resolve_model

LLAMA = "meta-llama/Llama-2-7b-hf"


def _plan(**recipe: Any) -> PlanFile:
    return a_plan(**{"model_id": LLAMA, "loss": "chunked", "adapter_dtype": "bf16", **recipe})


def _config(plan: PlanFile) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(TORCHTUNE.export(plan).files[CONFIG])
    return values


def _rows(tmp_path: Path, count: int) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"instruction": "a", "output": "b"}\n' * count, encoding="utf-8")
    return str(path)


def test_a_qlora_plan_downloads_the_weights_and_quantises_them() -> None:
    plan = _plan(quantization="nf4", double_quantization=True, warmup_ratio=0.0)
    exported = TORCHTUNE.export(plan)
    assert exported.missing == {}
    model = _config(plan)["model"]
    assert model["_component_"] == "torchtune.models.llama2.lora_llama2_7b"
    assert (model["quantize_base"], model["lora_attn_modules"][-1], model["apply_lora_to_mlp"]) == (True, "output_proj", True)
    download, run = exported.command.split(" && ")
    assert download == f"tune download {LLAMA} --output-dir weights/Llama-2-7b-hf --ignore-patterns '*.safetensors'"
    assert run == "tune run lora_finetune_single_device --config torchtune.yaml"


def test_several_cards_take_the_sharded_recipe() -> None:
    plan = _plan(method="full", sharding="fsdp", offload="all", count=8, gpu="A100 SXM4 80GB")
    assert TORCHTUNE.export(plan).command.endswith("tune run --nproc_per_node 8 full_finetune_distributed --config torchtune.yaml")
    config = _config(plan)
    assert config["fsdp_cpu_offload"] is True
    assert config["model"] == {"_component_": "torchtune.models.llama2.llama2_7b"}


@pytest.mark.parametrize(
    ("wanted", "attention", "mlp", "said"),
    [
        (("all-linear",), ["q_proj", "k_proj", "v_proj", "output_proj"], True, True),
        (("o_proj", "q_proj"), ["q_proj", "output_proj"], False, True),
        (("q_proj", "gate_proj", "up_proj", "down_proj"), ["q_proj"], True, True),
        (("qkv_proj", "gate_up_proj", "down_proj"), ["q_proj", "k_proj", "v_proj"], True, True),
        (("q_proj", "up_proj"), ["q_proj"], False, False),
        (("down_proj",), ["q_proj", "v_proj"], False, False),
    ],
)
def test_target_modules(wanted: tuple[str, ...], attention: list[str], mlp: bool, said: bool) -> None:
    plan = _plan(target_modules=wanted)
    model = _config(plan)["model"]
    assert (model["lora_attn_modules"], model["apply_lora_to_mlp"]) == (attention, mlp)
    assert ("target_modules" not in TORCHTUNE.export(plan).missing) == said


@pytest.mark.parametrize(
    ("recipe", "rows", "epochs", "per_epoch", "warmup", "missing"),
    [
        ({"epochs": 2.0}, 1600, 2, None, 6, set()),  # 100 steps each
        ({"epochs": 1.5}, 1600, 2, None, 6, {"epochs"}),
        ({"max_steps": 50}, 1600, 1, 50, 2, set()),
        ({"max_steps": 250}, 1600, 3, 250, 8, {"max_steps"}),
        ({"epochs": 2.0}, 0, 2, None, 0, {"warmup_ratio"}),
    ],
)
def test_length(
    tmp_path: Path, recipe: dict[str, Any], rows: int, epochs: int, per_epoch: int | None, warmup: int, missing: set[str]
) -> None:
    plan = _plan(data_path=_rows(tmp_path, rows) if rows else str(tmp_path / "gone.jsonl"), **recipe)
    config = _config(plan)
    assert (config["epochs"], config["max_steps_per_epoch"], config["lr_scheduler"]["num_warmup_steps"]) == (epochs, per_epoch, warmup)
    assert set(TORCHTUNE.export(plan).missing) == missing


def test_what_torchtune_lacks_is_accounted_for() -> None:
    def missing(**recipe: Any) -> set[str]:
        return set(TORCHTUNE.export(_plan(**{"warmup_ratio": 0.0, **recipe})).missing)

    assert missing(compute_dtype="fp16") == {"compute_dtype"}
    assert missing(adapter_dtype="fp32") == {"adapter_dtype"}
    assert missing(quantization="int8") == {"quantization", "double_quantization"}
    assert missing(attention="eager", loss="fused") == {"attention", "loss"}
    assert missing(sharding="zero3", count=2) == {"sharding"}
    assert missing(method="ia3") == {"method"}


def test_models_that_torchtune_has_not_are_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match=r"torchtune 0\.6\.1 has no Qwen/Qwen3-8B") as caught:
        TORCHTUNE.export(_plan(model_id="Qwen/Qwen3-8B"))
    assert "Qwen2.5" in str(caught.value.hint)


def test_a_local_folder_is_known_by_its_name_and_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "Qwen2.5-7B"
    folder.mkdir()
    for number in (2, 1):
        (folder / f"model-0000{number}-of-00002.safetensors").touch()
    plan = _plan(model_id="Qwen2.5-7B", local_path=str(folder))
    checkpointer = _config(plan)["checkpointer"]
    assert checkpointer["checkpoint_files"] == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert checkpointer["checkpoint_dir"] == str(folder)
    assert TORCHTUNE.export(plan).command.startswith("tune run ")


def test_the_builders_of_the_table_have_the_sizes_of_the_models() -> None:
    for entry in _table()["models"]:
        module, _, builder = entry["builder"].partition(".")
        size = re.match(r"(\d+(?:_\d)?)b", builder.removeprefix(f"{module}_"))
        for name in entry["ids"] if size else []:
            billions = float(size[1].replace("_", ".")) if size else 0
            try:
                parameters = resolve_model(name, offline=True).total_params
            except InputError:  # a chat variant without a card of its own
                continue
            assert parameters == pytest.approx(billions * 1e9, rel=0.35), name  # Gemma 2 2B counts its embeddings


@given(name=HOSTILE)
def test_omegaconf_and_yaml_take_paths_as_they_are(name: str) -> None:
    config = _config(_plan(local_path="/models/" + name, data_path="/data/" + name))
    for said, wanted in ((config["checkpointer"]["checkpoint_dir"], "/models/" + name), (config["dataset"]["data_files"], "/data/" + name)):
        assert re.search(r"(?<!\\)(\\\\)*\$\{", said) is None, "nothing is left for OmegaConf to fill in"
        assert re.sub(r"(\\*)\\\$\{", lambda found: found[1][: len(found[1]) // 2] + "${", said) == wanted


def test_the_configuration_of_a_7b_qlora_plan_reads_as_reviewed() -> None:
    golden("torchtune.txt", TORCHTUNE.export(a_plan(**QLORA_7B)).files[CONFIG])
