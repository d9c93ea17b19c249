"""The published speeds as runs: every row once, units as the sources state them, and settings read by hand."""

from __future__ import annotations

import csv
import re
import statistics
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.accuracy.case import Excluded
from benchmarks.accuracy.models import model_of, parameters
from benchmarks.accuracy.predict import hardware_of
from benchmarks.accuracy.throughput.lengths import batch_lengths, sample_lengths
from benchmarks.accuracy.throughput.rows import of_part, part_of, parts, runs, source_of
from benchmarks.accuracy.throughput.run import Run, published
from ftadvise.estimator.stack import stack_of

DATA = Path(__file__).parents[2] / "benchmarks" / "data" / "throughput_measurements.csv"
with DATA.open(newline="", encoding="utf-8") as _file:
    ROWS = {row["id"]: row for row in csv.DictReader(_file)}
ALL = runs()
RUNS = {each.case.id: each for each in ALL if isinstance(each, Run)}
EXCLUDED = {each.id: each for each in ALL if isinstance(each, Excluded)}


def test_every_row_is_mapped_once_or_left_out_with_a_reason() -> None:
    assert [each.case.id if isinstance(each, Run) else each.id for each in ALL] == list(ROWS)
    assert len(ALL) == 663
    assert all(len(each.reason) > 15 for each in EXCLUDED.values())


def test_models_gpus_and_stacks_are_ones_we_know() -> None:
    for case in {run.case.model: run.case for run in RUNS.values()}.values():
        assert model_of(case.model).total_params > 0
    for gpu in {run.case.gpu for run in RUNS.values()}:
        assert hardware_of(gpu).gpu is not None
    for stack in {run.case.stack for run in RUNS.values()}:
        assert stack_of(stack).name == stack.partition("==")[0]


def test_only_rows_of_quality_a_with_exact_lengths_are_fully_known() -> None:
    known = [run for run in RUNS.values() if run.known == "fully"]
    assert {run.case.source for run in known} == {"fms-acceleration"}
    assert Counter(run.case.n_gpus for run in known).keys() == {1, 2, 4}
    for run in known:
        row = ROWS[run.case.id]
        assert (row["quality"], row["seq_len_kind"]) == ("A", "packed"), run.case.id
        assert row["base_dtype"] in ("bf16", "nf4"), run.case.id
        assert run.case.recipe.seq_len == 4096
        assert not run.lengths


def test_gptq_rows_are_approximated_and_never_known() -> None:
    gptq = [run for name, run in RUNS.items() if "GPTQ" in ROWS[name]["base_dtype"]]
    assert len(gptq) == 73
    assert {run.known for run in gptq} == {"approximated"}
    assert {(run.case.recipe.quantization, run.case.recipe.compute_dtype) for run in gptq} == {("nf4", "fp16")}


def test_a_packed_row_by_hand() -> None:
    run = RUNS["fms-a100_80gb-24bdadb-9"]  # 2,777.18 tokens/s on each of two GPUs, micro batch 2
    assert (run.case.n_gpus, run.case.recipe.sharding, run.case.recipe.method) == (2, "fsdp", "full")
    assert run.seconds == pytest.approx(2 * 4096 / 2777.18)
    assert run.tokens_per_second == pytest.approx(2777.18)
    # samples per second are those of both GPUs: 1.356 is two micro batches of two in that time
    assert 2 * 2 / run.seconds == pytest.approx(1.356, rel=1e-3)


def test_an_unpacked_row_counts_padded_tokens_and_both_micro_batches() -> None:
    run = RUNS["fms-a100_80gb_pf-3cf092a-0"]  # 2,406.503 tokens/s, 4 x 445.2 tokens, accumulation 2
    assert run.seconds == pytest.approx(2 * 4 * 445 / 2406.503)
    assert 8 / run.seconds == pytest.approx(5.405, rel=2e-3)
    assert run.known == "partly"


def test_l40_rows_are_float16_without_versions() -> None:
    run = RUNS["fms-l40_40gb-8af8fa7-12"]
    assert (run.case.gpu, run.case.recipe.compute_dtype, run.case.recipe.dropout) == ("L40", "fp16", 0.0)
    assert any("version" in what for what in run.case.unknown)


def test_litgpt_seconds_are_of_a_micro_batch() -> None:
    run = RUNS["litgpt-rt-Llama2-7B-lora-bnb.nf4-mb1-x1"]  # 3.68 minutes for 1,000 iterations, batch of 128
    assert run.seconds == pytest.approx(3.68 * 60 / 1000 * 128)
    assert run.case.recipe.quantization == "nf4"
    assert 125 <= run.case.recipe.seq_len <= 140


def test_litgpt_on_several_gpus_is_sharded_with_checkpoints() -> None:
    case = RUNS["litgpt-rt-Llama2-13B-lora-None-mb1-x4"].case
    assert (case.n_gpus, case.recipe.sharding, case.recipe.gradient_checkpointing) == (4, "fsdp", True)
    assert not RUNS["litgpt-rt-Llama2-13B-lora-None-mb1-x1"].case.recipe.gradient_checkpointing


def test_peft_seconds_are_of_a_step_and_its_tokens_unpadded() -> None:
    run = RUNS["peft-mmqa-lora-llama-3.2-3B-rank32-2026-07-15"]  # 7,173.8 unpadded tokens/s, 0.11704 s, 4 samples of 210 tokens
    assert run.seconds == 0.11704
    assert run.seconds * 7173.8 == pytest.approx(4 * 210, rel=0.01)
    assert run.tokens_per_second > 7173.8


def test_qwen_seconds_are_of_eight_micro_batches() -> None:
    run = RUNS["qwen1-7B-lora-s8192"]
    assert (run.seconds, run.case.recipe.gradient_accumulation, run.case.recipe.seq_len) == (21.3, 8, 8192)
    assert run.tokens_per_second == pytest.approx(float(ROWS[run.case.id]["derived_tokens_per_s"]), rel=1e-3)


def test_qwen_stand_ins_are_marked() -> None:
    gptq, full = RUNS["qwen1-7B-q-lora-s256"], RUNS["qwen1-7B-full-parameter-s256"]
    assert (gptq.case.model, gptq.known) == ("Qwen/Qwen-7B-Chat", "approximated")
    assert (full.case.recipe.method, full.case.recipe.sharding, full.case.n_gpus, full.known) == ("full", "zero3", 2, "approximated")
    assert "embedding" in EXCLUDED["qwen1-7B-lora-emb-s256"].reason


def test_torchtune_speeds_are_of_all_gpus() -> None:
    run = RUNS["torchtune-readme-may24-Llama-2-70b-lora-A100x8"]
    assert run.tokens_per_second == pytest.approx(3384 / 8)
    assert run.case.recipe.target_modules == ("q_proj", "k_proj", "v_proj")
    # 6 operations a parameter and token (frozen, with recomputation): of one GPU it would be more than four A100s can do
    assert 3384 * 6 * 69e9 > 4 * 312e12


def test_pretraining_speeds_are_of_one_gpu() -> None:
    run = RUNS["internevo-7b-x8-ac1-mb8-1"]
    assert run.seconds == pytest.approx(8 * 2048 / 3314)
    assert (run.case.model, run.case.recipe.gradient_checkpointing, run.case.recipe.sharding) == ("InternLM-7B", True, "zero1")
    foundry = RUNS["llmfoundry-a100_40gb-mpt125m-s512-x8-mb104-bf16"]
    assert foundry.seconds == pytest.approx(3 * 104 * 512 / 156735)
    assert "fp8" in EXCLUDED["llmfoundry-h100_80gb-mpt1b-s512-x8-mb56-amp_fp8"].reason


@pytest.mark.parametrize("name", [name for name in RUNS if name.startswith("llmfoundry")])
def test_parameters_of_mpt_are_those_of_the_published_table(name: str) -> None:
    spec, row = model_of(RUNS[name].case.model), ROWS[name]
    assert parameters(spec.num_layers, spec.hidden_size, int(row["seq_len"])) == int(row["num_total_params"])


def test_every_figure_keeps_what_was_printed() -> None:
    for name, run in RUNS.items():
        value, _ = published(ROWS[name])
        assert float(re.match(r"[\d.e+]+", run.printed)[0]) == pytest.approx(value, rel=1e-5), name  # type: ignore[index]


def test_parts_hold_every_source_once() -> None:
    named = [source for about in parts().values() for source in about["sources"]]
    assert sorted(named) == sorted({source_of(each) for each in ALL})
    assert part_of("litgpt") == "derive"
    assert len(of_part(ALL, "derive")) + len(of_part(ALL, "report")) == len(of_part(ALL, None))
    assert all(run.known != "fully" for run in RUNS.values() if part_of(run.case.source) == "derive")


def test_lengths_of_alpaca_fill_the_published_histogram() -> None:
    """52,002 samples with the longer template, ten tokens more on average than litgpt's."""
    published_counts = {(0, 184.5): 42516, (184.5, 309): 8250, (309, 433.5): 983}
    lengths = [each + 10 for each in sample_lengths("alpaca", "llama")]
    for (low, high), count in published_counts.items():
        share = sum(low <= each < high for each in lengths) / len(lengths)
        assert share == pytest.approx(count / 52002, abs=0.004)


def test_larger_micro_batches_are_padded_further() -> None:
    means = [statistics.fmean(batch_lengths("alpaca", size, "llama")) for size in (1, 2, 4)]
    assert means[0] == pytest.approx(133, abs=1)
    assert means == sorted(means)
    assert max(batch_lengths("alpaca", 4, "llama")) <= 1304


def test_bucketed_batches_are_hardly_padded() -> None:
    lengths = batch_lengths("metamathqa", 4, "llama3")
    assert statistics.fmean(sample_lengths("metamathqa", "llama3")) == pytest.approx(209)
    assert 209 < statistics.fmean(lengths) < 225
    assert list(lengths) == sorted(lengths)
