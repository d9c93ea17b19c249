"""`--dry-run` shows the arguments that the run itself uses; between them every field of the recipe arrives somewhere."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from rich.console import Console

from ftadvise.estimator.data_settings import DataSettings
from ftadvise.estimator.plan_file import PlanFile
from ftadvise.estimator.recipe import Recipe
from ftadvise.rendering.dry_run_view import dry_run_document, dry_run_view
from ftadvise.runner.resolved_calls import resolved_calls

MakePlan = Callable[..., PlanFile]
BASE = Recipe(compute_dtype="fp32", max_steps=50)
NF4: dict[str, Any] = {"quantization": "nf4"}
ARRIVES: dict[str, tuple[dict[str, Any], Any, str, str]] = {
    # field: the rest of the recipe, another value, the call, its argument
    "method": ({}, "ia3", "peft.IA3Config", "feedforward_modules"),
    "quantization": ({}, "fp4", "transformers.BitsAndBytesConfig", "bnb_4bit_quant_type"),
    "double_quantization": (NF4, True, "transformers.BitsAndBytesConfig", "bnb_4bit_use_double_quant"),
    "compute_dtype": ({}, "bf16", "transformers.AutoModelForCausalLM.from_pretrained", "dtype"),
    "adapter_dtype": ({}, "bf16", "parameters.to", "dtype"),
    "rank": ({}, 5, "peft.LoraConfig", "r"),
    "alpha": ({}, 7, "peft.LoraConfig", "lora_alpha"),
    "rslora": ({}, True, "peft.LoraConfig", "use_rslora"),
    "dropout": ({}, 0.25, "peft.LoraConfig", "lora_dropout"),
    "target_modules": ({}, ("q_proj",), "peft.LoraConfig", "target_modules"),
    "high_precision_modules": (NF4, ("q_proj",), "transformers.BitsAndBytesConfig", "llm_int8_skip_modules"),
    "micro_batch": ({}, 3, "trl.SFTConfig", "per_device_train_batch_size"),
    "gradient_accumulation": ({}, 5, "trl.SFTConfig", "gradient_accumulation_steps"),
    "seq_len": ({}, 77, "trl.SFTConfig", "max_length"),
    "packing": ({}, True, "trl.SFTConfig", "packing"),
    "gradient_checkpointing": ({}, False, "trl.SFTConfig", "_checkpointing"),
    "attention": ({}, "eager", "transformers.AutoModelForCausalLM.from_pretrained", "attn_implementation"),
    "optimizer": ({}, "adafactor", "trl.SFTConfig", "optim"),
    "sharding": ({}, "fsdp", "trl.SFTConfig", "fsdp"),
    "offload": ({"sharding": "fsdp"}, "all", "trl.SFTConfig", "fsdp_config"),
    "learning_rate": ({}, 3e-3, "trl.SFTConfig", "learning_rate"),
    "schedule": ({}, "linear", "trl.SFTConfig", "lr_scheduler_type"),
    "warmup_ratio": ({}, 0.2, "trl.SFTConfig", "warmup_steps"),
    "max_grad_norm": ({}, 0.5, "trl.SFTConfig", "max_grad_norm"),
    "epochs": ({}, 1.5, "trl.SFTConfig", "num_train_epochs"),
    "max_steps": ({}, 9, "trl.SFTConfig", "max_steps"),
    "seed": ({}, 1, "trl.SFTConfig", "seed"),
}
REFUSED = {"loss"}
"""The installed TRL computes one loss; check_supported refuses the others (test_supported_recipes.py)."""


def called(make_plan: MakePlan, recipe: Recipe, data: DataSettings | None = None) -> dict[str, dict[str, Any]]:
    plan = make_plan("org/model", data, **recipe.to_dict() | {"target_modules": recipe.target_modules, "high_precision_modules": ()})
    return {call.name: call.arguments for call in resolved_calls(plan, recipe, "cpu", out_dir=Path("out"))}


def test_every_field_of_the_recipe_arrives_or_is_refused() -> None:
    assert ARRIVES.keys() | REFUSED == {field.name for field in dataclasses.fields(Recipe)}


@pytest.mark.parametrize("field", ARRIVES)
def test_a_field_arrives_as_its_argument(make_plan: MakePlan, field: str) -> None:
    rest, value, call, argument = ARRIVES[field]
    one, other = (called(make_plan, recipe) for recipe in (BASE.replace(**rest), BASE.replace(**rest, **{field: value})))
    before, after = (
        {
            name: given
            for name, given in calls.get(call, {}).items()
            if name == argument or name.endswith("_checkpointing" if argument[0] == "_" else argument)
        }
        for calls in (one, other)
    )
    assert after
    assert before != after
    elsewhere = {name for name in one.keys() & other.keys() if one[name] != other[name]} - {call}
    beside = {"compute_dtype": {"trl.SFTConfig"}, "quantization": {"transformers.AutoModelForCausalLM.from_pretrained"}}
    beside |= {"max_steps": set(), "method": {"peft.get_peft_model"}}
    assert elsewhere <= beside.get(field, set())
    if argument[0] != "_" and not isinstance(value, (tuple, str, bool)):
        assert list(after.values()) == [value]


@pytest.mark.parametrize("method", ["lora", "dora", "adalora", "ia3", "prompt", "adapter", "full"])
@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_the_libraries_take_every_argument(make_plan: MakePlan, tmp_path: Path, method: Any, quantization: Any) -> None:
    import peft
    import transformers
    import trl

    from ftadvise.estimator.bottleneck_tuner import BottleneckConfig
    from ftadvise.runner.adapters import adapter_config
    from ftadvise.runner.load_model import model_arguments
    from ftadvise.runner.trainer import sft_arguments

    if method == "full" and quantization != "none":
        return
    recipe = BASE.replace(method=method, quantization=quantization)
    calls = called(make_plan, recipe, DataSettings(eval_share=0.1))
    made = adapter_config(recipe)
    if made is not None:
        name = f"{'ftadvise' if isinstance(made, BottleneckConfig) else 'peft'}.{type(made).__name__}"
        given = calls[name]
        assert all(getattr(made, each) in (value, set(value) if isinstance(value, list) else value) for each, value in given.items())
        assert calls["peft.get_peft_model"]["peft_config"] == f"<{type(made).__name__}>"
        assert isinstance(made, peft.PeftConfig)
    quantised = model_arguments(recipe, "cpu", head="lm_head")["quantization_config"]
    assert (quantised is None) == ("transformers.BitsAndBytesConfig" not in calls)
    if quantised is not None:
        transformers.BitsAndBytesConfig(**quantised)
    config = trl.SFTConfig(**sft_arguments(recipe, "cpu", tmp_path, save=True, evaluate=True))
    for name, value in calls["trl.SFTConfig"].items():
        shown = getattr(config, name)
        assert name in ("output_dir", "report_to") or not value or value in (shown, str(getattr(shown, "value", shown))), name


def test_the_view_and_the_document_say_the_same(make_plan: MakePlan) -> None:
    recipe = BASE.replace(quantization="nf4", double_quantization=True)
    calls = resolved_calls(
        make_plan("org/\x1b[31mmodel", **recipe.to_dict() | {"target_modules": ("all-linear",), "high_precision_modules": ()}),
        recipe,
        "cpu",
        out_dir=Path("out"),
    )
    document = dry_run_document(calls, model="m", recipe=recipe.to_dict(), run_folder="out")
    assert document["schema"] == "ftadvise.dry-run/1"
    assert json.loads(json.dumps(document)) == document
    for lang in ("en", "zh"):
        shown = io.StringIO()
        Console(file=shown, width=200).print(dry_run_view(calls, lang))
        text = shown.getvalue()
        assert "\x1b" not in text
        for call in document["calls"]:
            assert f"{call['call']}(" in text
            assert all(f"{name}=" in text for name in call["arguments"] if name)
    assert "bnb_4bit_compute_dtype=torch.float32," in text
    assert "peft_config=<LoraConfig>," in text


def test_nothing_is_loaded_for_a_dry_run(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", refuse)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", refuse)
    assert [name.rpartition(".")[2] for name in called(make_plan, BASE)] == [
        "from_pretrained", "from_pretrained", "LoraConfig", "get_peft_model", "SFTConfig", "SFTTrainer", "to"
    ]  # fmt: skip
