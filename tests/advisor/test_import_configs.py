"""Other trainers' configurations read back: what we exported gives the same recipe, what people wrote gives what it means."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.exports.recipes import every_recipe, plan_file  # noqa: E402
from ftadvise.advisor.export import export_plan  # noqa: E402
from ftadvise.advisor.importing import read_config  # noqa: E402
from ftadvise.api import complete_recipe  # noqa: E402
from ftadvise.estimator.recipe import Recipe  # noqa: E402
from ftadvise.estimator.stack import stack_of  # noqa: E402
from ftadvise.profiles.errors import InputError  # noqa: E402
from ftadvise.profiles.probe import named_hardware  # noqa: E402

ADAPTER_FIELDS = {"adapter_dtype", "rank", "alpha", "dropout", "target_modules"}


def read_back(folder: Path, gpus: int) -> tuple[Recipe, Any]:
    """The recipe that the first file of the folder says, on so many GPUs."""
    imported = read_config(folder / "first.yaml")
    fields, _ = imported.on(gpus)
    return complete_recipe(fields, named_hardware(f"{gpus}x RTX 4090"), stack_of(imported.stack)), imported


@pytest.mark.parametrize("name", ["llama-factory", "axolotl", "trl"])
def test_what_was_exported_is_read_back(name: str, tmp_path: Path) -> None:
    for recipe in every_recipe():
        exported = export_plan(plan_file(recipe), name)
        first = next(iter(exported.files))
        for file, text in exported.files.items():
            (tmp_path / ("first.yaml" if file == first else file)).write_text(text, encoding="utf-8")
        again, imported = read_back(tmp_path, 1 if recipe.sharding == "none" else 2)
        excused = set(exported.missing)
        if recipe.method == "full" or "method" in excused:
            excused |= ADAPTER_FIELDS
        if name == "llama-factory" and recipe.sharding == "fsdp":  # said in accelerate.yaml, which this trainer's file does not name
            excused |= {"sharding", "offload", "adapter_dtype"}
        expected, found = recipe.to_dict(), again.to_dict()
        expected["high_precision_modules"] = [each for each in expected["high_precision_modules"] if each != "lm_head"]  # always one
        assert {key: found[key] for key in found if key not in excused} == {key: expected[key] for key in found if key not in excused}, (
            recipe
        )
        assert imported.model == "Qwen/Qwen2.5-7B"
        assert imported.unread == ()
        assert imported.stack == name


def config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_llama_factory_example_takes_its_defaults(tmp_path: Path) -> None:
    """Beginning of examples/train_qlora/llama3_lora_sft_bnb_npu.yaml, shortened."""
    text = """\
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
quantization_bit: 4
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
dataset: identity,alpaca_en_demo
template: llama3
cutoff_len: 2048
max_samples: 1000
output_dir: saves/llama3-8b/lora/sft
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
use_unsloth_gc: true
"""
    imported = read_config(config(tmp_path, text))
    fields = imported.fields
    assert (fields["quantization"], fields["double_quantization"], fields["alpha"]) == ("nf4", True, 16)
    assert (fields["loss"], fields["optimizer"], fields["learning_rate"]) == ("full", "adamw_torch_fused", 1e-4)
    assert imported.unread == ("use_unsloth_gc",)
    assert imported.assumed == ()


def test_an_axolotl_example_takes_its_defaults(tmp_path: Path) -> None:
    """Beginning of examples/llama-3/qlora-1b.yml, shortened; the empty keys are its own."""
    text = """\
base_model: NousResearch/Llama-3.2-1B
load_in_4bit: true
adapter: qlora
datasets:
  - {path: teknium/GPT4-LLM-Cleaned, type: alpaca}
val_set_size: 0.1
sequence_len: 2048
sample_packing: true
lora_r: 32
lora_alpha: 16
lora_target_modules: [gate_proj, down_proj, up_proj]
wandb_project:
micro_batch_size: 2
gradient_accumulation_steps: 4
optimizer: adamw_bnb_8bit
learning_rate: 0.0002
bf16: auto
gradient_checkpointing: true
flash_attention: true
warmup_steps: 10
special_tokens:
  pad_token: <|end_of_text|>
lora_modules_to_save: [embed_tokens]
"""
    imported = read_config(config(tmp_path, text))
    assert imported.fields["target_modules"] == ("gate_proj", "down_proj", "up_proj")
    assert (imported.fields["attention"], imported.fields["packing"], imported.fields["optimizer"]) == (
        "flash_attention_2",
        True,
        "adamw_8bit",
    )
    assert "compute_dtype" not in imported.fields
    assert imported.unread == ("lora_modules_to_save",)


def test_trl_loads_fp32_weights_unless_it_is_told(tmp_path: Path) -> None:
    imported = read_config(config(tmp_path, "model_name_or_path: m\nuse_peft: true\nlora_target_modules: all-linear\ndataset_name: d\n"))
    assert imported.fields["compute_dtype"] == "fp32"
    assert any("float32" in each.en for each in imported.assumed)
    assert imported.fields["gradient_checkpointing"] is True


def test_several_gpus_and_no_sharding_is_data_parallel(tmp_path: Path) -> None:
    imported = read_config(config(tmp_path, "base_model: m\nadapter: lora\nlora_target_linear: true\n"))
    assert imported.on(1)[0]["sharding"] == "none"
    fields, assumed = imported.on(4)
    assert fields["sharding"] == "ddp"
    assert "4 GPUs" in assumed[-1].en


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("{zero_optimization: {stage: 3, offload_param: {device: cpu}}}", ("zero3", "parameters")),
        ("examples/deepspeed/ds_z3_offload_config.json", ("zero3", "all")),
        ("deepspeed_configs/zero2.json", ("zero2", "none")),
    ],
)
def test_deepspeed_is_read_or_told_by_its_name(said: str, expected: tuple[str, str], tmp_path: Path) -> None:
    fields = read_config(config(tmp_path, f"base_model: m\nadapter: lora\ndeepspeed: {said}\n")).fields
    assert (fields["sharding"], fields["offload"]) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\n", "no configuration that can be read"),
        ("- base_model\n", "is a mapping"),
        ("base_model: m\nrl: dpo\n", "rl 'dpo': is not priced"),
        ("model_name_or_path: m\nstage: dpo\ntemplate: x\n", "stage 'dpo'"),
        ("model_name_or_path: m\nstage: sft\nfinetuning_type: freeze\n", "finetuning_type 'freeze'"),
        ("base_model: m\nmicro_batch_size: two\n", "micro_batch_size must be a number"),
        ("base_model: m\nmicro_batch_size: 1.5\n", "micro_batch_size must be a whole number"),
        ("base_model: m\nsample_packing: maybe\n", "sample_packing must be true or false"),
        ("base_model: m\ndeepspeed: mine.json\n", "deepspeed 'mine.json': no such file"),
        ("base_model: &a m\nadapter: *a\n", "aliases"),
        ("base_model: !!python/object/apply:os.system ['touch owned']\n", "not valid YAML"),
    ],
)
def test_what_cannot_be_priced_is_refused_in_one_line(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(problem)) as raised:
        read_config(config(tmp_path, text))
    assert "\n" not in str(raised.value)


KEYS = st.sampled_from(
    [
        "base_model",
        "adapter",
        "stage",
        "lora_r",
        "lora_rank",
        "bf16",
        "optim",
        "optimizer",
        "deepspeed",
        "fsdp",
        "plugins",
        "dtype",
        "use_peft",
    ]
)
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.lists(st.integers(), max_size=2) | st.just({})


@given(st.dictionaries(KEYS, VALUES, min_size=1))
def test_no_document_is_a_traceback(tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]) -> None:
    import yaml

    path = config(tmp_path_factory.mktemp("config"), yaml.safe_dump(document, allow_unicode=True))
    try:
        fields = read_config(path).fields
    except InputError:
        return
    assert fields["sharding"]
