"""`ftadvise export`, and `ftadvise estimate --config`, as a user meets them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from ftadvise.advisor.export import TARGETS

PLAN = ("plan", "--model", "Qwen2.5-7B", "--gpu", "RTX 4090")


def test_list_names_every_target(ftadvise: Any) -> None:
    listed = ftadvise("export", "--list").out
    assert all(name in listed for name in TARGETS)
    document = json.loads(ftadvise("export", "--list", "--json").out)
    assert [each["name"] for each in document["targets"]] == list(TARGETS)


def test_one_file_goes_to_stdout_and_the_rest_to_stderr(ftadvise: Any) -> None:
    ftadvise(*PLAN)
    outcome = ftadvise("export", "--to", "deepspeed")
    assert outcome.code == 0
    assert json.loads(outcome.out)["zero_optimization"] == {"stage": 0}
    assert "the training script says it" in outcome.err
    assert outcome.err.rstrip().endswith("deepspeed --num_gpus 1 train.py --deepspeed deepspeed.json")
    assert sorted(path.name for path in Path().iterdir()) == ["ftadvise-plan.yaml"]


def test_several_files_go_into_a_folder_with_the_command_that_starts_them(ftadvise: Any) -> None:
    ftadvise(*PLAN)
    outcome = ftadvise("export", "--to", "llama-factory", "-o", "my folder")
    assert outcome.out == ""
    written = {path.name for path in Path("my folder").iterdir()}
    assert written == {"llamafactory_sft.yaml", "dataset_info.json", "ftadvise-demo.jsonl"}
    command = outcome.err.rstrip().splitlines()[-1]
    assert shlex.split(command)[:3] == ["cd", "my folder", "&&"]
    assert "as llama-factory trains it" in outcome.err


def test_what_is_there_is_kept_and_said(ftadvise: Any) -> None:
    ftadvise(*PLAN)
    ftadvise("export", "--to", "axolotl", "-o", "out")
    assert "is kept as" not in ftadvise("export", "--to", "axolotl", "-o", "out").err
    for number, name in enumerate(("axolotl.yaml.bak", "axolotl.yaml.bak1")):
        Path("out/axolotl.yaml").write_text(f"mine: {number}\n", encoding="utf-8")
        assert f"out/{name}" in ftadvise("export", "--to", "axolotl", "-o", "out").err
        assert Path("out", name).read_text(encoding="utf-8") == f"mine: {number}\n"
    assert list(Path("out").glob(".*.tmp")) == []


def test_json_holds_the_files_the_account_and_the_price(ftadvise: Any) -> None:
    ftadvise(*PLAN, "--method", "qlora")
    document = json.loads(ftadvise("export", "--to", "llama-factory", "--json").out)
    assert document["schema"] == "ftadvise.export/1"
    assert next(iter(document["files"])) == "llamafactory_sft.yaml"
    assert {each["field"] for each in document["missing"]} == {"adapter_dtype"}
    assert document["estimate"]["stack"]["name"] == "llama-factory"
    assert document["estimate"]["recipe"]["adapter_dtype"] == "fp32"
    assert not Path("ftadvise-llama-factory").exists()


def test_the_account_speaks_chinese(ftadvise: Any) -> None:
    ftadvise(*PLAN, "--method", "qlora")
    assert "总是使用 fp32" in ftadvise("export", "--to", "llama-factory", "-o", "-", "--lang", "zh").err


@pytest.mark.parametrize(
    ("arguments", "what", "hint"),
    [
        (("export",), "--to names no target", "llama-factory"),
        (("export", "--to", "axolot"), "unknown target 'axolot'", "axolotl"),
        (("export", "missing.yaml", "--to", "trl"), "missing.yaml: no such file", ""),
        (("export", "--to", "trl", "-o", "ftadvise-plan.yaml"), "ftadvise-plan.yaml: cannot be written", "-o"),
        (("estimate", "--config", "missing.yaml"), "missing.yaml: no such file", ""),
        (("estimate", "--config", "ftadvise-plan.yaml"), "no configuration that can be read", "this is a plan"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(ftadvise: Any, arguments: tuple[str, ...], what: str, hint: str) -> None:
    ftadvise(*PLAN)
    outcome = ftadvise(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    lines = outcome.err.strip().splitlines()
    assert what in lines[0]
    assert hint in outcome.err
    assert len(lines) <= 2


def test_a_configuration_is_priced_on_its_own_stack(ftadvise: Any) -> None:
    Path("axolotl.yaml").write_text(
        "base_model: meta-llama/Llama-3.1-8B\nadapter: qlora\nload_in_4bit: true\nlora_r: 16\nlora_target_linear: true\n"
        "sequence_len: 2048\nmicro_batch_size: 8\nbf16: true\ngradient_checkpointing: true\nlora_modules_to_save: [lm_head]\n",
        encoding="utf-8",
    )
    outcome = ftadvise("estimate", "--config", "axolotl.yaml", "--gpu", "RTX 3060 12GB")
    assert outcome.code == 3
    assert "priced on the stack axolotl" in outcome.out
    assert "not read, so not in the price (1): lora_modules_to_save" in outcome.out
    assert "To make it fit" in outcome.out
    assert "--loss fused" in outcome.out
    document = json.loads(ftadvise("estimate", "--config", "axolotl.yaml", "--gpu", "RTX 3060 12GB", "--json").out)
    assert document["stack"]["name"] == "axolotl"
    assert document["recipe"]["quantization"] == "nf4"
    assert document["config"]["unread"] == ["lora_modules_to_save"]
    assert document["config"]["changes"]


def test_flags_override_a_configuration(ftadvise: Any) -> None:
    Path("c.yaml").write_text(
        "model_name_or_path: Qwen/Qwen2.5-7B\nstage: sft\nfinetuning_type: lora\nquantization_bit: 4\nbf16: true\n", encoding="utf-8"
    )
    arguments = ("--config", "c.yaml", "--gpu", "A100-80GB", "--json")
    document = json.loads(ftadvise("estimate", *arguments).out)
    assert (document["stack"]["name"], document["recipe"]["quantization"]) == ("llama-factory", "nf4")
    other = ("--quantization", "none", "--micro-batch", "2", "--stack", "trl", "--model", "Qwen2.5-0.5B")
    document = json.loads(ftadvise("estimate", *arguments, *other).out)
    assert document["stack"]["name"] == "trl"
    assert document["model"]["id"] == "Qwen/Qwen2.5-0.5B"
    assert (document["recipe"]["quantization"], document["recipe"]["micro_batch"]) == ("none", 2)


def test_what_was_exported_costs_the_same_when_it_is_read_back(ftadvise: Any) -> None:
    ftadvise(*PLAN, "--method", "qlora")
    for name, file in (("llama-factory", "llamafactory_sft.yaml"), ("axolotl", "axolotl.yaml"), ("trl", "trl_sft.yaml")):
        there = json.loads(ftadvise("export", "--to", name, "--json", "-o", name).out)["estimate"]
        read = json.loads(ftadvise("estimate", "--config", f"{name}/{file}", "--gpu", "RTX 4090", "--json").out)
        assert read["recipe"] == there["recipe"]
        assert read["memory"]["device_used_bytes"] == there["memory"]["device_used_bytes"]
