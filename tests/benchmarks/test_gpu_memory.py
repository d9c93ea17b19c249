"""The GPU benchmark without a GPU: its matrix, its resumption, what it makes of failures, and one real case on the CPU."""

from __future__ import annotations

import csv
import gzip
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture(autouse=True)
def scripts_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks are scripts that import one another by their bare names."""
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def gpu_memory() -> Any:
    return importlib.import_module("gpu_memory")


@pytest.fixture
def cases() -> list[Any]:
    return importlib.import_module("matrix").gpu_cases()  # type: ignore[no-any-return]


def rows_in(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_the_matrix_has_every_method_and_quantisation_and_each_name_once(cases: list[Any]) -> None:
    matrix = importlib.import_module("matrix")
    names = [case.name for case in cases]
    assert len(names) == len(set(names))
    assert set(matrix.HISTORIES) <= set(names)
    tried = {(case.recipe.method, case.recipe.quantization, case.recipe.double_quantization) for case in cases}
    assert len(tried) == (len(matrix.METHODS) - 1) * len(matrix.QUANTIZATIONS) + 1
    assert {case.recipe.optimizer for case in cases} >= {"adamw_torch", "paged_adamw_8bit", "adafactor", "lion_8bit"}
    assert names[0] == "1.5B: qlora"  # a short budget still gives the commonest recipe


def test_every_case_can_be_tried_on_a_cpu(cases: list[Any]) -> None:
    matrix = importlib.import_module("matrix")
    for model in {case.model for case in cases}:
        case = next(case for case in cases if case.model == model)
        assert matrix.shrunk(case).config["num_hidden_layers"] == 3


def test_rows_are_appended_and_new_columns_are_kept(gpu_memory: Any, tmp_path: Path) -> None:
    results = tmp_path / "results.csv"
    gpu_memory.append_row(results, {"case": "a", "status": "ok"})
    gpu_memory.append_row(results, {"case": "b", "status": "oom", "asked_bytes": 5})
    assert rows_in(results) == [{"case": "a", "status": "ok", "asked_bytes": ""}, {"case": "b", "status": "oom", "asked_bytes": "5"}]
    assert gpu_memory.measured_names(results) == {"a", "b"}
    assert [file.name for file in tmp_path.iterdir()] == ["results.csv"]


def test_measured_cases_are_skipped_and_a_dead_process_is_a_row(
    gpu_memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.csv"
    gpu_memory.append_row(results, {"case": "7B: qlora", "status": "ok"})
    # the child exits at once: the file that it would run is none
    monkeypatch.setattr(gpu_memory, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu_memory.py", "--device", "cpu", "--no-probes", "--results", str(results), "--only", "7B: qlora"])
    assert gpu_memory.main() == 0
    found = {row["case"]: row for row in rows_in(results)}
    assert found["7B: qlora"]["status"] == "ok"
    assert found["7B: qlora, not checkpointed"]["status"] == "broken"
    assert "exit code 2" in found["7B: qlora, not checkpointed"]["reason"]
    assert "[1/3]" in capsys.readouterr().out


def test_no_case_starts_when_the_budget_is_spent(
    gpu_memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.csv"
    monkeypatch.setattr(
        sys, "argv", ["gpu_memory.py", "--device", "cpu", "--no-probes", "--results", str(results), "--budget-minutes", "0"]
    )
    assert gpu_memory.main() == 0
    assert "the budget is spent" in capsys.readouterr().err
    assert not results.exists()


def test_without_a_driver_it_says_so(gpu_memory: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu_memory.nvml_memory, "driver_version", lambda: "")
    monkeypatch.setattr(sys, "argv", ["gpu_memory.py"])
    assert gpu_memory.main() == 2
    assert "no NVIDIA driver" in capsys.readouterr().err


def test_the_allocators_events_become_block_numbers(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    gpu_case = importlib.import_module("gpu_case")
    events = [
        {"action": "segment_alloc", "addr": 4096, "size": 2 << 20},
        {"action": "alloc", "addr": 4096, "size": 512},
        {"action": "free_requested", "addr": 4096, "size": 512},
        {"action": "free_completed", "addr": 4096, "size": 512},
        {"action": "alloc", "addr": 4096, "size": 1024},
        {"action": "segment_free", "addr": 4096, "size": 2 << 20},
    ]
    gpu_case.write_history(events, tmp_path / "events.jsonl.gz")
    with gzip.open(tmp_path / "events.jsonl.gz", "rt", encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    assert found == [
        ["segment_alloc", 1, 2 << 20],
        ["alloc", 2, 512],
        ["free", 2, 512],
        ["alloc", 3, 1024],
        ["segment_free", 1, 2 << 20],
    ]


@pytest.fixture
def tiny_case(cases: list[Any]) -> Any:
    return importlib.import_module("matrix").shrunk(cases[0])


@pytest.mark.train
@pytest.mark.filterwarnings("ignore")
def test_a_case_is_measured_phase_by_phase(tiny_case: Any) -> None:
    pytest.importorskip("torch")
    row = importlib.import_module("gpu_case").measure(tiny_case, "cpu")
    assert row["status"] == "ok", row["reason"]
    peaks = [row[f"{phase}_allocated_bytes"] for phase in ("load", "optimizer_step", "forward", "backward")]
    assert peaks == sorted(peaks)
    assert row["peak_allocated_bytes"] == max(row["backward_allocated_bytes"], row["later_steps_allocated_bytes"])
    assert row["seconds_per_step"] > 0
    assert (row["sequences"], row["padded_length"]) == (2, 32)


@pytest.mark.train
@pytest.mark.filterwarnings("ignore")
def test_running_out_of_memory_is_a_result(tiny_case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    random_weights = importlib.import_module("random_weights")

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(random_weights, "load_random_model", full)
    row = importlib.import_module("gpu_case").measure(tiny_case, "cpu")
    assert row["status"] == "oom"
    assert "Tried to allocate" in row["reason"]
    assert row["asked_bytes"] == 20 << 20
