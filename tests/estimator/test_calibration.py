"""The store of calibrations: what it keeps, what it refuses, and to whom it applies."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from calibration_stand_ins import CPU, GPU, MODEL, RATES, RECIPE, STACK, VERSIONS, finished, measured
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.estimator import calibration as module
from ftadvise.estimator.calibration import Calibration, DeviceCalibration, RunRecord, calibrated_rates
from ftadvise.estimator.calibration_store import (
    store_device,
    store_run,
)
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.speed.calibrated import context_bytes_for, correction_for, rates_for, without_calibration
from ftadvise.estimator.speed_correction import speed_correction
from ftadvise.profiles.hardware import Hardware

pytestmark = pytest.mark.usefixtures("own_store")


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
