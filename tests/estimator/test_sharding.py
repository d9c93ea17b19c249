"""Memory on several GPUs: the shares of each scheme, and FSDP runs as published.

Source of the figures: foundation-model-stack/fms-acceleration, scripts/benchmarks/refs (benchmarks/data/memory_measurements_multi_gpu.csv):
Mistral-7B on A100-80GB, packed to 4096 tokens, checkpointing, FlashAttention-2, FSDP full shard, torch's peak allocated per GPU.
"""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest

from ftadvise.estimator.estimate import check_supported
from ftadvise.estimator.estimate_types import Stack
from ftadvise.estimator.memory import Priced, price_memory
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.sharding import fsdp_version
from ftadvise.estimator.stack import stack_of
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.hardware import GIB, Cpu, Hardware
from ftadvise.profiles.resolve_gpu import resolve_gpus
from ftadvise.profiles.resolve_model import resolve_model

CSV = Path(__file__).parents[2] / "benchmarks" / "data" / "memory_measurements_multi_gpu.csv"
MISTRAL = resolve_model("mistralai/Mistral-7B-v0.1")
LORA = Recipe(
    rank=16,
    dropout=0.1,
    target_modules=("q_proj", "k_proj", "v_proj", "o_proj"),
    gradient_accumulation=1,
    seq_len=4096,
    packing=True,
    attention="flash_attention_2",
    loss="full",
)
FULL = LORA.replace(method="full")
QLORA = LORA.replace(quantization="nf4", double_quantization=True)
OLD = stack_of("transformers-4==4.48.1")
FOAK = stack_of("transformers-4-foak==4.45.2")
NEW = stack_of("transformers==5.23.0")


def a100s(count: int) -> Hardware:
    return Hardware(resolve_gpus("A100 SXM4 80GB") * count, Cpu("any", 8, 8, False, False), 512 * GIB, 512 * GIB, "named")


def priced(recipe: Recipe, sharding: str = "none", *, gpus: int = 2, stack: Stack = NEW, offload: str = "none") -> Priced:
    return price_memory(MISTRAL, a100s(gpus), recipe.replace(sharding=sharding, offload=offload), stack)


def peak(found: Priced) -> int:
    return max(size for phase, size in found.phases().items() if phase != "evaluation")


@pytest.fixture(scope="module")
def published() -> dict[str, dict[str, str]]:
    with CSV.open(newline="", encoding="utf-8") as file:
        return {row["id"].removeprefix("fms-"): row for row in csv.DictReader(file)}


@pytest.mark.parametrize(
    ("row", "recipe", "stack", "within"),
    [
        ("a100_80gb-24bdadb-9", FULL, dataclasses.replace(OLD, autocast=False), 0.001),
        ("a100_80gb_liger-733992a-128", FULL, FOAK, 0.001),
        ("a100_80gb_liger-733992a-162", FULL, FOAK, 0.02),  # the peak is at the loss, with the root's parameters whole
        ("a100_80gb-24bdadb-33", LORA, dataclasses.replace(OLD, autocast=False), 0.005),
        ("a100_80gb-24bdadb-37", LORA, dataclasses.replace(stack_of("transformers-4-foak==4.48.1"), autocast=False), 0.001),
        ("a100_80gb_liger-733992a-168", LORA, FOAK, 0.02),
        ("a100_80gb-24bdadb-77", QLORA, OLD, 0.005),
        ("a100_80gb-24bdadb-57", QLORA, stack_of("trl==0.13,transformers==4.48.1"), 0.005),  # TRL prepares no sharded model
    ],
)
def test_published_fsdp_peaks(published: dict[str, dict[str, str]], row: str, recipe: Recipe, stack: Stack, within: float) -> None:
    measured = published[row]
    found = priced(recipe.replace(micro_batch=int(measured["micro_batch_size"])), "fsdp", gpus=int(measured["n_gpus"]), stack=stack)
    assert peak(found) / GIB == pytest.approx(float(measured["peak_mem_gib_norm"]), rel=within)


def test_what_fsdp_holds_between_steps(published: dict[str, dict[str, str]]) -> None:
    """FSDP1 keeps the shares of the gradients until the next forward pass; quantisation constants are whole on each GPU."""
    for row, recipe in (("a100_80gb_liger-733992a-168", LORA), ("a100_80gb-24bdadb-77", QLORA)):
        found = priced(recipe, "fsdp", gpus=int(published[row]["n_gpus"]), stack=FOAK)
        held = sum(found.base.values()) + found.share.static.gradients
        assert held / GIB == pytest.approx(float(published[row]["mem_allocated_steady_gib"]), abs=0.003)


def test_no_sync_accumulates_whole_gradients(published: dict[str, dict[str, str]]) -> None:
    """Eight GPUs, two micro batches: 13.5 GiB of gradients on each, which no sharding explains."""
    row = published["a100_80gb_mp-4224c66-14"]
    found = priced(FULL.replace(gradient_accumulation=2), "fsdp", gpus=8, stack=dataclasses.replace(OLD, autocast=False))
    assert found.base["gradients"] == 2 * MISTRAL.total_params
    assert sum(found.base.values()) < float(row["peak_mem_gib_norm"]) * GIB < sum(found.base.values()) + 3 * GIB


def test_ddp_is_one_gpu_and_its_buckets() -> None:
    for recipe in (FULL, LORA, QLORA):
        alone, several = priced(recipe, gpus=1), priced(recipe, "ddp")
        for phase, size in several.phases().items():
            assert size - alone.phases()[phase] == (0 if phase == "load" else alone.static.gradients), phase


@pytest.mark.parametrize("sharding", ["zero1", "zero2", "zero3", "fsdp"])
@pytest.mark.parametrize("recipe", [FULL, LORA, QLORA], ids=["full", "lora", "qlora"])
def test_more_gpus_never_take_more_of_each(sharding: str, recipe: Recipe) -> None:
    peaks = [peak(priced(recipe, sharding, gpus=gpus)) for gpus in (2, 3, 4, 8)]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] > peaks[-1]


def test_each_stage_shards_more() -> None:
    stages = [priced(FULL, sharding, gpus=8) for sharding in ("ddp", "zero1", "zero2", "zero3")]
    peaks = [peak(each) for each in stages]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == len(peaks)
    assert [each.static.trainable_parameters for each in stages] == [MISTRAL.total_params] * 4


@pytest.mark.parametrize("sharding", ["zero2", "zero3", "fsdp"])
def test_offload_moves_the_optimizer_to_the_host(sharding: str) -> None:
    here, there = priced(FULL, sharding), priced(FULL, sharding, offload="optimizer")
    assert there.base["optimizer_state"] == 0
    assert peak(there) < peak(here)
    assert there.share.host_bytes >= 10 * MISTRAL.total_params // 2
    assert "host memory" in there.share.notes[-1]


def test_offloaded_parameters_leave_what_is_gathered() -> None:
    found = priced(LORA, "zero3", offload="all")
    assert found.base["weights"] == found.base["adapters"] == 0
    assert found.base["workspace"] > 2 * 10**9


def test_the_default_version_of_fsdp_follows_transformers() -> None:
    assert [fsdp_version(stack_of(f"transformers=={version}")) for version in ("4.48.1", "5.6.0", "5.12.0")] == [1, 1, 2]


@pytest.mark.parametrize(
    ("gpus", "changes", "message"),
    [
        (1, {"sharding": "fsdp"}, "needs several GPUs"),
        (2, {"offload": "optimizer"}, "not without sharding"),
        (2, {"sharding": "ddp", "offload": "all"}, "DDP offloads nothing"),
        (2, {"sharding": "zero2", "offload": "parameters"}, "cannot offload them"),
        (2, {"sharding": "fsdp", "quantization": "int8"}, "cannot be sharded"),
    ],
)
def test_contradictions_are_named(gpus: int, changes: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        check_supported(MISTRAL, a100s(gpus), LORA.replace(**changes))
    assert error.value.hint
