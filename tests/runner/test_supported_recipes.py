"""Every field of a recipe is executed or refused by name."""

from __future__ import annotations

import dataclasses

import pytest

from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.stack import trl_loss
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.hardware import Gpu, Hardware
from ftadvise.runner.supported import check_supported

pytest.importorskip("trl")
GOOD = Recipe(compute_dtype="fp32")


def _with_gpu(hardware: Hardware, *, bf16: bool = True, bitsandbytes: bool = True) -> Hardware:
    gpu = Gpu("some card", "nvidia", "ada", 24 << 30, supports_bf16=bf16, supports_bitsandbytes=bitsandbytes)
    return dataclasses.replace(hardware, gpus=(gpu,))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"quantization": "nf4", "double_quantization": True, "adapter_dtype": "bf16"},
        {"quantization": "int8"},
        {"method": "dora"},
        {"method": "adalora", "quantization": "int8"},
        {"method": "prefix", "gradient_checkpointing": False},
        {"method": "adapter", "target_modules": ("o_proj", "down_proj")},
        {"method": "full", "compute_dtype": "bf16"},
    ],
)
def test_what_runs_on_a_cpu_runs_on_a_gpu(hardware: Hardware, changes: dict[str, str]) -> None:
    for machine in (hardware, _with_gpu(hardware)):
        check_supported(GOOD.replace(**changes), machine)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"method": "dora", "quantization": "int8"}, "DoRA on an int8 base cannot be trained on a CPU"),
        ({"method": "adalora", "quantization": "int8", "adapter_dtype": "bf16"}, "AdaLoRA on an int8 base in fp32 casts nothing"),
        ({"method": "prompt", "packing": True}, "packing with method prompt"),
        ({"method": "prefix"}, "prefix tuning does not work with gradient checkpointing"),
        ({"method": "adapter", "target_modules": ("q_proj",)}, "behind the last projection of a block"),
        ({"sharding": "zero3"}, "sharding zero3 needs"),
        ({"offload": "optimizer"}, "offload optimizer is done by DeepSpeed or FSDP"),
        ({"compute_dtype": "fp16"}, "fp16 cannot be trained on a CPU"),
        ({"adapter_dtype": "fp16"}, "adapter_dtype fp16 loses small gradients"),
        ({"optimizer": "paged_adamw_8bit"}, "optimizer paged_adamw_8bit needs a GPU"),
        ({"target_modules": ("q_proj", "lm_head")}, "lm_head would never be trained"),
        ({"loss": "full"}, "loss full is not what the installed TRL"),
    ],
)
def test_what_does_not_run_is_refused_by_name(hardware: Hardware, changes: dict[str, object], wanted: str) -> None:
    with pytest.raises(InputError, match=wanted) as caught:
        check_supported(GOOD.replace(**changes), hardware)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changes", "card", "wanted"),
    [
        ({"compute_dtype": "bf16"}, {"bf16": False}, "bf16 is not supported by some card"),
        ({"quantization": "nf4"}, {"bitsandbytes": False}, "does not support some card"),
        ({"method": "full", "compute_dtype": "fp16"}, {}, "cannot scale its gradients"),
        ({"compute_dtype": "fp16", "adapter_dtype": "bf16"}, {}, "needs fp32 adapters"),
    ],
)
def test_what_a_card_cannot_do_is_refused(hardware: Hardware, changes: dict[str, str], card: dict[str, bool], wanted: str) -> None:
    with pytest.raises(InputError, match=wanted):
        check_supported(GOOD.replace(**changes), _with_gpu(hardware, **card))


@pytest.mark.parametrize(
    ("version", "loss"),
    [("0.29.1", "full"), ("1.6.0", "full"), ("1.7.0", "chunked"), ("1.14.2", "chunked"), ("1.15.0", "fused"), ("2.0", "fused")],
)
def test_the_loss_follows_the_version_of_trl(version: str, loss: str) -> None:
    assert trl_loss(version) == loss
