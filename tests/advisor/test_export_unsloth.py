"""The Unsloth script: fields reach it, names stay values. `make check-exports` compares the arguments with Unsloth's source."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from export_plans import HOSTILE, QLORA_7B, a_plan, golden
from hypothesis import given

from ftadvise.advisor.export.unsloth import SCRIPT, UNSLOTH
from ftadvise.profiles.errors import InputError


def _arguments(name: str, **plan: Any) -> dict[str, str]:
    """The keyword arguments of the call of `name` in the script."""
    tree = ast.parse(UNSLOTH.export(a_plan(**plan)).files[SCRIPT])
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == name]
    assert len(calls) == 1
    return {each.arg or "": ast.unparse(each.value) for each in calls[0].keywords}


def test_unsloth_is_imported_before_what_it_patches() -> None:
    imports = [line for line in UNSLOTH.export(a_plan()).files[SCRIPT].splitlines() if line.startswith(("import ", "from "))]
    assert imports[0].startswith("from unsloth import FastLanguageModel")


@pytest.mark.parametrize(
    ("call", "recipe", "argument", "value"),
    [
        ("FastLanguageModel.from_pretrained", {}, "load_in_4bit", "False"),
        ("FastLanguageModel.from_pretrained", {"quantization": "nf4"}, "load_in_4bit", "True"),
        ("FastLanguageModel.from_pretrained", {"quantization": "int8"}, "load_in_8bit", "True"),
        ("FastLanguageModel.from_pretrained", {"method": "full"}, "full_finetuning", "True"),
        ("FastLanguageModel.from_pretrained", {"gradient_checkpointing": False}, "use_gradient_checkpointing", "False"),
        ("FastLanguageModel.from_pretrained", {}, "use_exact_model_name", "True"),
        ("BitsAndBytesConfig", {"quantization": "fp4"}, "bnb_4bit_quant_type", "'fp4'"),
        ("BitsAndBytesConfig", {"quantization": "nf4"}, "bnb_4bit_use_double_quant", "False"),
        ("FastLanguageModel.get_peft_model", {"method": "dora"}, "use_dora", "True"),
        ("FastLanguageModel.get_peft_model", {"target_modules": ("q_proj", "v_proj")}, "target_modules", "['q_proj', 'v_proj']"),
        ("SFTConfig", {"packing": True}, "packing", "True"),
        ("SFTConfig", {}, "padding_free", "False"),
        ("SFTConfig", {"max_steps": 9}, "max_steps", "9"),
    ],
)
def test_fields_reach_the_calls(call: str, recipe: dict[str, Any], argument: str, value: str) -> None:
    assert _arguments(call, **recipe)[argument] == value


def test_what_unsloth_does_by_itself_is_accounted_for() -> None:
    def missing(**plan: Any) -> set[str]:
        return set(UNSLOTH.export(a_plan(**plan)).missing)

    assert missing() == {"attention"}
    assert missing(adapter_dtype="bf16", loss="full") == {"attention", "adapter_dtype", "loss"}
    assert missing(sharding="zero3", offload="all", count=2) == {"attention", "sharding", "offload"}
    assert missing(method="prompt") == {"attention", "method"}
    assert missing(sharding="ddp", count=2) == {"attention"}


def test_it_needs_a_gpu() -> None:
    with pytest.raises(InputError, match="needs a GPU"):
        UNSLOTH.export(a_plan(gpu=None))


@given(name=HOSTILE, module=HOSTILE)
def test_names_are_values_and_never_code(name: str, module: str) -> None:
    hostile = {"model_id": name, "data_path": "/" + name + "/x", "target_modules": (module,), "quantization": "nf4"}
    tree = ast.parse(UNSLOTH.export(a_plan(**hostile, high_precision_modules=(module,))).files[SCRIPT])
    plain = {"data_path": "/x", "target_modules": ("x",), "quantization": "nf4", "high_precision_modules": ("x",)}
    shape = [type(node).__name__ for node in ast.walk(ast.parse(UNSLOTH.export(a_plan(**plain)).files[SCRIPT]))]
    assert [type(node).__name__ for node in ast.walk(tree)] == shape
    assert {name, module} <= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_the_script_of_a_7b_qlora_plan_reads_as_reviewed() -> None:
    golden("unsloth-train.txt", UNSLOTH.export(a_plan(**QLORA_7B)).files[SCRIPT])
