"""The plain Python script says every field, and nothing in a plan can become code. tests/runner/test_exported_script.py runs it."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from export_plans import HOSTILE, QLORA_7B, a_plan, golden
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.advisor.export.plain_python import PYTHON, SCRIPT


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"gradient_checkpointing": False}, "activation_checkpointing=False"),
        ({"attention": "flash_attention_2"}, 'attn_implementation="flash_attention_2"'),
        ({"quantization": "fp4"}, 'bnb_4bit_quant_type="fp4"'),
        ({"quantization": "int8", "high_precision_modules": ("down_proj",)}, 'llm_int8_skip_modules=[*["down_proj"], head_name()]'),
        ({"optimizer": "paged_adamw_8bit"}, 'optim="paged_adamw_8bit"'),
        ({"loss": "chunked"}, '"trl>=1.7,<1.15"'),
        ({"max_steps": 70}, "max_steps=70"),
        ({"sharding": "ddp", "count": 2}, 'device_map={"": int(os.environ.get("LOCAL_RANK", 0))}'),
        ({"sharding": "fsdp", "count": 2, "quantization": "nf4"}, "bnb_4bit_quant_storage=torch.bfloat16"),
        ({"compute_dtype": "fp16"}, "fp16=True"),
    ],
)
def test_fields_reach_the_script(recipe: dict[str, Any], said: str) -> None:
    script = PYTHON.export(a_plan(**recipe)).files[SCRIPT]
    assert said in script
    ast.parse(script)


def test_several_gpus_are_launched_with_their_configuration() -> None:
    exported = PYTHON.export(a_plan(sharding="zero3", offload="all", count=4))
    assert exported.command == "accelerate launch --config_file accelerate.yaml train.py"
    assert {"accelerate.yaml", "deepspeed.json"} <= set(exported.files)
    assert "device_map" not in exported.files[SCRIPT]


def test_what_a_method_has_not_is_accounted_for() -> None:
    assert set(PYTHON.export(a_plan(method="ia3")).missing) == {"rank", "alpha", "dropout"}
    assert "loss" in PYTHON.export(a_plan(method="adalora")).missing
    assert PYTHON.export(a_plan()).missing == {}
    assert set(PYTHON.export(a_plan(method="prefix", gradient_checkpointing=True)).missing) >= {"gradient_checkpointing", "rank"}
    adapter = PYTHON.export(a_plan(method="adapter"))
    assert set(adapter.missing) == {"method"}
    assert "LoraConfig(" in adapter.files[SCRIPT]


@given(name=HOSTILE | st.text(min_size=1), module=HOSTILE)
def test_names_are_values_and_never_code(name: str, module: str) -> None:
    plan = a_plan(model_id=name, data_path=name, target_modules=(module,), high_precision_modules=(name,), quantization="nf4")
    tree = ast.parse(PYTHON.export(plan).files[SCRIPT])
    plain = ast.parse(
        PYTHON.export(a_plan(data_path="x", target_modules=("x",), high_precision_modules=("x",), quantization="nf4")).files[SCRIPT]
    )
    assert _shape(tree) == _shape(plain) or name.lower().endswith((".json", ".csv"))
    assert name in [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]


def _shape(tree: ast.AST) -> list[str]:
    return [type(node).__name__ for node in ast.walk(tree)]


def test_the_script_of_a_7b_qlora_plan_reads_as_reviewed() -> None:
    golden("python-train.txt", PYTHON.export(a_plan(**QLORA_7B)).files[SCRIPT])
