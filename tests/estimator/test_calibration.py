"""The store of calibrations: what it keeps, what it refuses, and to whom it applies."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.estimator import calibration as module
from ftadvise.estimator.calibration import Calibration, Device, DeviceCalibration, RunRecord, calibrated_rates
from ftadvise.estimator.calibration_document import from_document, to_document
from ftadvise.estimator.calibration_store import (
    KEPT_RUNS,
    calibration_path,
    load_calibration,
    read_calibration,
    reset_calibration,
    store_device,
    store_run,
)
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.speed.calibrated import context_bytes_for, correction_for, rates_for, without_calibration
from ftadvise.estimator.speed.rates import Rates
from ftadvise.estimator.speed_correction import speed_correction
from ftadvise.estimator.stack import stack_of
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.hardware import Cpu, Gpu, Hardware
from ftadvise.profiles.resolve_model import resolve_model

CPU = Hardware((), Cpu("some cpu", 2, 4, supports_bf16=False, supports_amx=False), 16 << 30, 12 << 30, "probed")
GPU = dataclasses.replace(
    CPU, gpus=(Gpu("Card", "NVIDIA", "unknown", 8 << 30, compute_capability=(8, 6), uuid="GPU-1"),), driver_version="590.1"
)
VERSIONS = {"torch": "2.13.0", "bitsandbytes": "0.50.2", "ftadvise": "0.1.0"}
RATES = Rates(
    {"fp32": 1e11, "bf16": 2e10}, 1e10, {"nf4": 1e9}, {"forward": 0.5, "backward": 0.4}, 1e-6, {"forward": 1e-5, "backward": 9e-6}
)
MODEL = resolve_model("Qwen/Qwen2.5-0.5B")
RECIPE = Recipe(compute_dtype="fp32")
STACK = stack_of("trl")


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A store of the test's own, versions that do not depend on what is installed, and calibration switched on."""
    monkeypatch.setenv("FTADVISE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("FTADVISE_NO_CALIBRATION")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(module, "installed_version", VERSIONS.get)
    monkeypatch.setattr("ftadvise.estimator.speed_correction.installed_version", VERSIONS.get)
    return tmp_path / "data" / "calibration.json"


def device(hardware: Hardware = CPU) -> Device:
    found = Device.of(hardware)
    assert found is not None
    return found


def measured(hardware: Hardware = CPU, **figures: Any) -> DeviceCalibration:
    values = {"created": "2026-01-01T00:00:00+00:00", "versions": VERSIONS, "matmul_flops_per_s": {"fp32": 3e11}, **figures}
    return DeviceCalibration(device(hardware), **values)


def finished(ratio: float = 1.0, hardware: Hardware = CPU, recipe: Recipe = RECIPE, **fields: Any) -> RunRecord:
    values: dict[str, Any] = {
        "created": "2026-01-02T00:00:00+00:00",
        "kind": "run",
        "model": MODEL.id,
        "recipe": recipe.to_dict(),
        "stack": "trl",
        "versions": VERSIONS,
        "ftadvise": "0.1.0",
        "rates": "",
        "predicted_tokens_per_second": 100.0,
        "measured_tokens_per_second": 100.0 * ratio,
        "predicted_peak_bytes": 10,
        "measured_peak_bytes": 11,
        "steps": 3,
    }
    return RunRecord(device(hardware), **(values | fields))


# --- the file ---------------------------------------------------------------------------------------------------------------------


def test_without_a_file_there_is_nothing_and_no_folder_is_made(own_store: Path) -> None:
    assert load_calibration() == Calibration()
    assert not own_store.parent.exists()


def test_what_is_stored_is_read_again() -> None:
    store_device(measured())
    store_run(finished())
    assert load_calibration() == Calibration((measured(),), (finished(),))
    assert calibration_path().parent.name == "data"


def test_a_device_replaces_its_earlier_figures_and_no_other_s() -> None:
    store_device(measured())
    store_device(measured(GPU))
    store_device(measured(kernel_s=2e-6))
    assert load_calibration().devices == (measured(GPU), measured(kernel_s=2e-6))


def test_the_newest_runs_stay() -> None:
    path = store_run(finished())
    document = json.loads(path.read_text(encoding="utf-8"))
    document["runs"] = [document["runs"][0] | {"steps": step} for step in range(KEPT_RUNS)]
    path.write_text(json.dumps(document), encoding="utf-8")
    store_run(finished(steps=9999))
    steps = [run.steps for run in load_calibration().runs]
    assert (len(steps), steps[0], steps[-1]) == (KEPT_RUNS, 1, 9999)


def test_two_processes_that_write_at_once_lose_nothing(own_store: Path) -> None:
    code = (
        "import sys, json\n"
        "from ftadvise.estimator.calibration import RunRecord\n"
        "from ftadvise.estimator.calibration_document import from_document\n"
        "from ftadvise.estimator.calibration_store import store_run\n"
        "import dataclasses\n"
        "run = from_document(json.loads(sys.stdin.readline())).runs[0]\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for step in range(15): store_run(dataclasses.replace(run, model=sys.argv[1], steps=step))\n"
    )
    names = ("one", "two", "three")
    processes = [
        subprocess.Popen([sys.executable, "-c", code, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for name in names
    ]
    for process in processes:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(to_document(Calibration((), (finished(),)))) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
    for process in processes:  # all have imported everything: now they write at the same time
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0, 0, 0]
    runs = read_calibration(own_store).runs
    assert sorted((run.model, run.steps) for run in runs) == sorted((name, step) for name in names for step in range(15))


CORRUPT = {
    "empty": "",
    "not JSON": '{"schema": "ftadvise.calibration/1", "devices": [',
    "not text": None,
    "a list": "[]",
    "another schema": '{"schema": "ftadvise.calibration/2", "devices": [], "runs": []}',
    "no lists": '{"schema": "ftadvise.calibration/1"}',
    "an unknown device": '{"schema": "ftadvise.calibration/1", "devices": [{"device": {}}], "runs": []}',
    "too deep": "[" * 100_000,
}


@pytest.mark.parametrize("content", CORRUPT.values(), ids=CORRUPT.keys())
def test_a_file_that_cannot_be_used_is_ignored_with_one_warning_that_names_it(
    own_store: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    own_store.parent.mkdir()
    own_store.write_bytes(b"\xff\xfe\x00" if content is None else content.encode())
    for _ in range(3):
        assert load_calibration() == Calibration()
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert str(own_store) in warnings[0]
    assert "ftadvise calibrate --reset" in warnings[0]


def test_a_writer_keeps_what_it_cannot_use(own_store: Path) -> None:
    own_store.parent.mkdir()
    for number in ("", "1"):
        own_store.write_text(f"broken {number}", encoding="utf-8")
        store_device(measured())
        assert own_store.with_name(f"calibration.json.bad{number}").read_text(encoding="utf-8") == f"broken {number}"
        assert load_calibration().devices == (measured(),)


def test_a_folder_that_cannot_be_written_is_an_input_error(own_store: Path) -> None:
    own_store.parent.write_text("a file is in the way", encoding="utf-8")
    with pytest.raises(InputError, match="data"):
        store_run(finished())


def test_reset_removes_the_file_and_says_what_was_in_it(own_store: Path) -> None:
    assert reset_calibration() == (Calibration(), None)
    store_device(measured())
    assert reset_calibration() == (Calibration((measured(),), ()), own_store)
    assert not own_store.exists()
    own_store.write_text("broken", encoding="utf-8")
    assert reset_calibration() == (Calibration(), own_store)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kernel_s", -1.0),
        ("kernel_s", "fast"),
        ("kernel_s", math.nan),
        ("kernel_s", True),
        ("processors", 1.5),
        ("created", 7),
        ("more", 1),
    ],
)
def test_values_that_cannot_be_are_refused_by_name(own_store: Path, key: str, value: Any) -> None:
    document = to_document(Calibration((measured(),), ()))
    document["devices"][0][key] = value
    own_store.parent.mkdir()
    own_store.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(InputError, match=key):
        read_calibration(own_store)


positive = st.floats(min_value=1e-12, max_value=1e18)
by_name = st.dictionaries(st.text(max_size=8), positive, max_size=3)
figures = st.builds(
    DeviceCalibration,
    device=st.builds(
        Device,
        kind=st.sampled_from(["cuda", "cpu"]),
        name=st.text(),
        memory_bytes=st.integers(0, 1 << 50),
        compute_capability=st.text(),
        driver=st.text(),
        cores=st.integers(0, 512),
        threads=st.integers(0, 512),
        torch=st.text(),
    ),
    created=st.text(),
    versions=st.dictionaries(st.text(), st.text(), max_size=3),
    matmul_flops_per_s=by_name,
    bandwidth_bytes_per_s=st.none() | positive,
    dequantize_bytes_per_s=by_name,
    attention_share=by_name,
    kernel_s=st.none() | positive,
    host_s=by_name,
    processors=st.none() | st.integers(0, 999),
    context_bytes=st.none() | st.integers(0, 1 << 40),
)


@given(devices=st.lists(figures, max_size=3), ratio=positive, steps=st.integers(0, 10**9))
def test_a_document_holds_everything(devices: list[DeviceCalibration], ratio: float, steps: int) -> None:
    calibration = Calibration(tuple(devices), (finished(ratio, steps=steps),))
    assert from_document(json.loads(json.dumps(to_document(calibration)))) == calibration


# --- whom it applies to ------------------------------------------------------------------------------------------------------------


def test_measured_figures_replace_those_of_the_data_sheet() -> None:
    found = measured(kernel_s=3e-6, dequantize_bytes_per_s={"nf4": 7e9}, host_s={"forward": 2e-5})
    rates = calibrated_rates(RATES, CPU, Calibration((found,)))
    assert rates is not None
    assert rates.matmul_flops_per_s == {"fp32": 3e11, "bf16": 2e10}
    assert (rates.kernel_s, rates.bandwidth_bytes_per_s, rates.dequantize_bytes_per_s) == (3e-6, 1e10, {"nf4": 7e9})
    assert rates.host_s == {"forward": 2e-5, "backward": 9e-6}
    assert rates.basis == "calibrated"
    low, high = rates.interval
    assert RATES.interval[0] < low < 1 < high < RATES.interval[1]


OTHER_MACHINES = {
    "another CPU": dataclasses.replace(CPU, cpu=dataclasses.replace(CPU.cpu, name="another cpu")),
    "fewer cores": dataclasses.replace(CPU, cpu=dataclasses.replace(CPU.cpu, logical_cores=2)),
    "a GPU": GPU,
}


@pytest.mark.parametrize("hardware", OTHER_MACHINES.values(), ids=OTHER_MACHINES.keys())
def test_another_machine_keeps_its_own_rates(hardware: Hardware) -> None:
    assert calibrated_rates(RATES, hardware, Calibration((measured(),))) is RATES


def test_another_driver_memory_or_capability_is_another_gpu() -> None:
    calibration, gpu = Calibration((measured(GPU),)), GPU.gpus[0]
    others = [
        dataclasses.replace(GPU, driver_version="590.2"),
        dataclasses.replace(GPU, gpus=(dataclasses.replace(gpu, memory_bytes=16 << 30),)),
        dataclasses.replace(GPU, gpus=(dataclasses.replace(gpu, compute_capability=(8, 9)),)),
        dataclasses.replace(GPU, source="named"),
    ]
    assert all(calibrated_rates(RATES, other, calibration) is RATES for other in others)
    twin = dataclasses.replace(GPU, gpus=(dataclasses.replace(gpu, uuid="GPU-2", free_bytes=1),))
    assert calibrated_rates(RATES, twin, calibration) is not RATES


def test_another_torch_or_thread_count_is_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    calibration = Calibration((measured(),), (finished(0.5),))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert calibrated_rates(RATES, CPU, calibration) is RATES
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert calibrated_rates(RATES, CPU, calibration) is not RATES
    monkeypatch.setattr(module, "installed_version", {"torch": "2.14.0"}.get)
    assert calibrated_rates(RATES, CPU, calibration) is RATES
    assert speed_correction(calibration, CPU, MODEL, RECIPE, STACK) is None
    monkeypatch.setattr(module, "installed_version", {}.get)  # the light installation
    assert calibrated_rates(RATES, CPU, calibration) is RATES


def test_another_bitsandbytes_keeps_everything_but_the_expansion() -> None:
    found = measured(versions={"bitsandbytes": "0.48"}, dequantize_bytes_per_s={"nf4": 7e9})
    rates = calibrated_rates(RATES, CPU, Calibration((found,)))
    assert rates is not None
    assert rates.dequantize_bytes_per_s == {"nf4": 1e9}
    assert rates.matmul_flops_per_s["fp32"] == 3e11


def test_a_device_without_a_profile_gets_rates_when_everything_was_measured() -> None:
    complete = {"attention_share": RATES.attention_share, "host_s": RATES.host_s, "kernel_s": 1e-6, "bandwidth_bytes_per_s": 1e9}
    rates = calibrated_rates(None, GPU, Calibration((measured(GPU, **complete),)))
    assert rates is not None
    assert rates.matmul_flops_per_s == {"fp32": 3e11}
    assert calibrated_rates(None, GPU, Calibration((measured(GPU),))) is None


# --- what runs say -----------------------------------------------------------------------------------------------------------------


def correction(*runs: RunRecord, recipe: Recipe = RECIPE, devices: tuple[DeviceCalibration, ...] = ()) -> Any:
    return speed_correction(Calibration(devices, runs), CPU, MODEL, recipe, STACK)


def test_runs_like_this_one_correct_it() -> None:
    found = correction(finished(0.8))
    assert (found.ratio, found.count, found.same_model) == (pytest.approx(0.8), 1, True)
    assert found.low == pytest.approx(0.8 / 1.15)
    assert found.high == pytest.approx(0.8 * 1.15)


def test_the_same_model_weighs_most_and_others_are_less_sure() -> None:
    other = finished(2.0, model="other/model")
    assert correction(finished(0.8), other).ratio == pytest.approx(0.8)
    alone = correction(other)
    assert (alone.ratio, alone.same_model) == (pytest.approx(2.0**0.5), False)
    assert alone.high == pytest.approx(1.25 * 2.0**0.5)
    assert correction(*[other] * 8).ratio == pytest.approx(2.0 ** (8 / 9))


def test_one_run_on_a_busy_machine_moves_nothing_but_the_interval() -> None:
    steady = [finished(1.0), finished(1.02), finished(0.98), finished(1.0)]
    found = correction(*steady, finished(0.3))
    assert found.ratio == pytest.approx(1.0)
    assert found.low < correction(*steady).low


UNLIKE = {
    "quantised": {"recipe": RECIPE.replace(quantization="nf4")},
    "full": {"recipe": RECIPE.replace(method="full")},
    "bf16": {"recipe": RECIPE.replace(compute_dtype="bf16")},
    "another stack": {"stack": "unsloth"},
    "another version": {"ftadvise": "0.0.9"},
    "from other rates": {"rates": "2020-01-01T00:00:00+00:00"},
    "on another device": {"hardware": GPU},
}


@pytest.mark.parametrize("fields", UNLIKE.values(), ids=UNLIKE.keys())
def test_runs_unlike_this_one_do_not_count(fields: dict[str, Any]) -> None:
    assert correction(finished(0.5, **fields)) is None
    assert correction(finished(0.5, **fields), finished(0.9)).ratio == pytest.approx(0.9)


def test_a_quantised_run_counts_for_its_bitsandbytes_only() -> None:
    nf4 = RECIPE.replace(quantization="nf4")
    old = finished(0.5, recipe=nf4, versions=VERSIONS | {"bitsandbytes": "0.48"})
    assert correction(old, recipe=nf4) is None
    assert correction(old, finished(0.7, recipe=nf4), recipe=nf4).ratio == pytest.approx(0.7)


def test_runs_from_before_a_calibration_do_not_count_after_it() -> None:
    before, after = finished(0.5), finished(0.9, rates=measured().created)
    assert correction(before, after, devices=(measured(),)).ratio == pytest.approx(0.9)
    assert correction(before, devices=(measured(),)) is None


@given(ratios=st.lists(st.floats(0.01, 100), min_size=1, max_size=30))
def test_a_correction_lies_between_the_newest_runs(ratios: list[float]) -> None:
    found = correction(*(finished(ratio) for ratio in ratios))
    newest = ratios[-9:]
    assert min(newest) * (1 - 1e-9) <= found.ratio <= max(newest) * (1 + 1e-9)
    assert found.low * 1.149 < found.ratio < found.high / 1.149
    assert found.count == len(newest)


# --- asked from everywhere ---------------------------------------------------------------------------------------------------------


def test_what_is_stored_is_what_a_prediction_uses_until_it_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    derived = rates_for(CPU)
    assert correction_for(CPU, MODEL, RECIPE, STACK) is None
    store_device(measured())
    store_run(finished(0.9, rates=measured().created))
    found, calibrated = correction_for(CPU, MODEL, RECIPE, STACK), rates_for(CPU)
    assert calibrated is not None
    assert calibrated.basis == "calibrated"
    assert found is not None
    with without_calibration():
        assert rates_for(CPU) == derived
        assert correction_for(CPU, MODEL, RECIPE, STACK) is None
    assert rates_for(CPU) == calibrated
    monkeypatch.setenv("FTADVISE_NO_CALIBRATION", "1")
    assert rates_for(CPU) == derived
    assert correction_for(CPU, MODEL, RECIPE, STACK) is None


def test_the_context_is_that_of_the_gpu_it_was_measured_on() -> None:
    assert context_bytes_for(GPU) is None
    store_device(measured(GPU, context_bytes=400 << 20))
    assert context_bytes_for(GPU) == 400 << 20
    assert context_bytes_for(CPU) is None
    assert context_bytes_for(dataclasses.replace(GPU, driver_version="600.1")) is None
