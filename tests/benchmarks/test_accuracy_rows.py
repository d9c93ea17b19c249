"""The published rows as cases: every row once, every excluded row with a reason, and settings that are what the sources say."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.accuracy.case import GIB, Case, Excluded
from benchmarks.accuracy.rows import multi_gpu, single_gpu, verdicts
from ftadvise.estimator.stack import stack_of
from ftadvise.profiles.probe import named_hardware
from ftadvise.profiles.resolve_model import resolve_model

DATA = Path(__file__).parents[2] / "benchmarks" / "data"
SINGLE, MULTI, VERDICTS = single_gpu(), multi_gpu(), verdicts()
CASES = [row for row in (*SINGLE, *MULTI) if isinstance(row, Case)]


def _ids(name: str) -> list[str]:
    with (DATA / name).open(newline="", encoding="utf-8") as file:
        return [row["id"] for row in csv.DictReader(file)]


def _case(identifier: str) -> Case:
    return next(case for case in CASES if case.id == identifier)


@pytest.mark.parametrize(
    ("rows", "file", "count"),
    [
        (SINGLE, "memory_measurements.csv", 348),
        (MULTI, "memory_measurements_multi_gpu.csv", 122),
        (VERDICTS, "fits_or_not.csv", 13),
    ],
)
def test_every_row_is_mapped_exactly_once(rows: list[Case | Excluded], file: str, count: int) -> None:
    assert [row.id for row in rows] == _ids(file)
    assert len(rows) == count


def test_every_excluded_row_says_why() -> None:
    for row in (*SINGLE, *MULTI):
        if isinstance(row, Excluded):
            assert len(row.reason) > 15, row.id
            assert not isinstance(row, Case)


def test_models_gpus_and_stacks_are_ones_we_know() -> None:
    for model in {case.model for case in (*CASES, *VERDICTS)}:
        assert resolve_model(model).total_params > 0
    for gpu in {case.gpu for case in (*CASES, *VERDICTS)}:
        assert named_hardware(gpu).gpu is not None
    for stack in {case.stack for case in (*CASES, *VERDICTS)}:
        assert stack_of(stack).name == stack.partition("==")[0]


def test_only_rows_with_every_setting_published_count_as_fully_known() -> None:
    known = Counter(case.source for case in CASES if case.fully_known)
    assert known["fms-acceleration"] > 0
    assert not known.keys() & {"Qwen README", "ms-swift", "PEFT method comparison", "LLaMA-Factory wiki", "torchtune"}
    for case in CASES:
        if case.fully_known:
            assert all(reading.named for reading in case.measured), case.id


def test_a_packed_row_carries_both_of_its_readings() -> None:
    case = _case("fms-a100_80gb-24bdadb-32")
    assert case.fully_known
    assert (case.recipe.method, case.recipe.micro_batch, case.recipe.seq_len, case.recipe.packing) == ("lora", 4, 4096, True)
    allocated, used = case.measured
    assert (allocated.metric, used.metric) == ("allocated", "device_used")
    assert allocated.peak_bytes == pytest.approx(24.8706 * GIB)
    assert used.peak_bytes == 29576 * 2**20


def test_quantised_bases_keep_their_kind() -> None:
    assert _case("fms-a100_80gb-24bdadb-56").recipe.double_quantization
    assert [case.recipes[0].quantization for case in VERDICTS[:4]] == ["int8", "int8", "nf4", "fp4"]


def test_several_gpus_are_sharded() -> None:
    for case in CASES:
        assert (case.recipe.sharding == "fsdp") == (case.n_gpus > 1), case.id


def test_gptq_is_never_priced_as_nf4() -> None:
    with (DATA / "memory_measurements.csv").open(newline="", encoding="utf-8") as file:
        gptq = {row["id"] for row in csv.DictReader(file) if "GPTQ" in row["base_dtype"]}
    assert len(gptq) > 30
    assert not gptq & {case.id for case in CASES}
