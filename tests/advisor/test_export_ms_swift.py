"""ms-swift: the file and the command line say the same, defaults of its own are overridden. `make check-exports` asks ms-swift itself."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from export_plans import HOSTILE, QLORA_7B, a_plan, golden
from hypothesis import given, settings

from ftadvise.advisor.export.ms_swift import CONFIG, MS_SWIFT, SHELL
from ftadvise.advisor.export.target import Exported


def _values(exported: Exported) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(exported.files[CONFIG])
    return values


def _arguments(exported: Exported) -> list[str]:
    """What a shell hands to swift."""
    said = "swift() { printf '%s\\0' \"$@\"; }\n" + exported.files[SHELL]
    done = subprocess.run(["sh"], input=said.encode(), capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


def test_a_qlora_plan_keeps_its_numbers_where_swift_has_others() -> None:
    values = _values(MS_SWIFT.export(a_plan(**QLORA_7B)))
    assert values["use_hf"] is True, "the name is the hub's, not ModelScope's"
    assert values["truncation_strategy"] == "right", "swift would drop long rows"
    assert (values["weight_decay"], values["adam_beta2"]) == (0.0, 0.999), "swift has 0.1 and 0.95"
    assert values["gradient_checkpointing_kwargs"] == {"use_reentrant": False}
    assert (values["quant_bits"], values["bnb_4bit_use_double_quant"], values["lora_dtype"]) == (4, True, "bfloat16")


@pytest.mark.parametrize(
    ("plan", "command"),
    [
        ({}, "swift sft swift_sft.yaml"),
        ({"count": 4}, "CUDA_VISIBLE_DEVICES=0 swift sft swift_sft.yaml"),
        ({"count": 4, "sharding": "zero3"}, "NPROC_PER_NODE=4 swift sft swift_sft.yaml"),
    ],
)
def test_the_command_uses_as_many_cards_as_the_plan(plan: dict[str, Any], command: str) -> None:
    assert MS_SWIFT.export(a_plan(**plan)).command == command


def test_fsdp_checkpoints_in_its_own_way_and_zero_brings_its_file() -> None:
    fsdp = MS_SWIFT.export(a_plan(count=2, sharding="fsdp", offload="all"))
    config = json.loads(fsdp.files[_values(fsdp)["fsdp"]])
    assert (config["fsdp"], config["fsdp_config"]["activation_checkpointing"]) == ("full_shard auto_wrap offload", True)
    assert _values(fsdp)["gradient_checkpointing"] is False
    zero = MS_SWIFT.export(a_plan(count=2, sharding="zero2"))
    assert json.loads(zero.files[_values(zero)["deepspeed"]])["zero_optimization"]["stage"] == 2


def test_what_swift_lacks_is_accounted_for() -> None:
    def missing(**recipe: Any) -> set[str]:
        return set(MS_SWIFT.export(a_plan(**recipe)).missing)

    assert missing() == set()
    assert missing(packing=True) == {"packing"}, "only with FlashAttention"
    assert missing(packing=True, attention="flash_attention_2") == set()
    assert missing(method="prefix") == {"method"}
    assert missing(method="ia3", target_modules=("q_proj",)) == {"rank", "alpha", "dropout", "target_modules"}
    assert missing(loss="chunked") == {"loss"}
    assert missing(quantization="nf4", high_precision_modules=("o_proj",)) == {"high_precision_modules"}


@pytest.mark.parametrize(
    ("row", "scale"), [({"text": "x"}, "all"), ({"messages": []}, "default"), ({"instruction": "a", "output": "b"}, "default")]
)
def test_what_is_learned_follows_the_rows(tmp_path: Path, row: dict[str, Any], scale: str) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps(row), encoding="utf-8")
    assert _values(MS_SWIFT.export(a_plan(data_path=str(data))))["loss_scale"] == scale


@pytest.mark.skipif(shutil.which("sh") is None, reason="no shell")
@settings(max_examples=30, deadline=None)
@given(name=HOSTILE, module=HOSTILE)
def test_a_shell_gives_swift_the_names_as_they_are(name: str, module: str) -> None:
    exported = MS_SWIFT.export(a_plan(model_id=name, data_path=f"/data/{name}/x", target_modules=("q_proj", module), quantization="nf4"))
    wanted = ["sft"]
    for key, value in _values(exported).items():  # as swift's own cli/main.py makes arguments of the file
        words = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        wanted += [f"--{key}", *map(str, words)]
    assert _arguments(exported) == wanted
    assert (wanted[2], str(Path(f"/data/{name}/x")) in wanted) == (name, True)


def test_the_files_of_a_7b_qlora_plan_read_as_reviewed() -> None:
    exported = MS_SWIFT.export(a_plan(**QLORA_7B))
    golden("ms-swift-sft.txt", exported.files[CONFIG])
    golden("ms-swift-shell.txt", exported.files[SHELL])
