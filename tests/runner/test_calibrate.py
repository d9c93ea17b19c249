"""Measuring a device: every figure, on tiny sizes; the check with real steps; runs that add to the store."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from rich.console import Console

from ftadvise.estimator.calibration import Device
from ftadvise.estimator.calibration_store import calibration_path, load_calibration
from ftadvise.estimator.plan_file import PlanFile
from ftadvise.estimator.speed.calibrated import correction_for, rates_for, without_calibration
from ftadvise.estimator.stack import stack_of
from ftadvise.profiles.errors import InputError, InterruptedRunError
from ftadvise.profiles.hardware import Gpu, Hardware
from ftadvise.profiles.resolve_model import resolve_model
from ftadvise.runner import calibrate as module
from ftadvise.runner import microbenchmark
from ftadvise.runner.bench_device import CpuBenchDevice, CudaBenchDevice, median_seconds
from ftadvise.runner.calibrate import calibrate, check_calibration, check_recipes
from ftadvise.runner.microbenchmark import Sizes
from ftadvise.runner.supervisor import in_this_process, run_plan
from ftadvise.runner.supported import check_supported

pytestmark = pytest.mark.train
TINY = Sizes(((16, 32, 24), (16, 32, 24)), (16, 32), (64, 64), (1, 2, 16, 8))


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Calibration on, with a store of the test's own."""
    monkeypatch.setenv("FTADVISE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("FTADVISE_NO_CALIBRATION")


@pytest.fixture
def console() -> Console:
    """Keeps what was said."""
    return Console(file=io.StringIO(), width=120)


def said(console: Console) -> str:
    """What the console was told."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class FakeGpu(CpuBenchDevice):
    """Answers as a GPU does, on the CPU."""

    def __init__(self) -> None:
        self.precision: list[bool] = []
        self.waits = 0

    def synchronize(self) -> None:
        self.waits += 1

    def matmul_dtypes(self) -> tuple[str, ...]:
        return ("fp32", "tf32")

    def use_tf32(self, allowed: bool) -> None:
        self.precision.append(allowed)

    def attention_kernels(self) -> Any:
        return {"efficient_": nullcontext(), "": nullcontext()}

    def processors(self) -> int | None:
        return 108

    def context_bytes(self) -> int | None:
        return 500 << 20


def test_every_figure_of_a_cpu_is_measured_and_used(hardware: Hardware, console: Console) -> None:
    before = rates_for(hardware)
    found = calibrate(hardware, console=console, sizes=TINY)
    assert found == load_calibration().of(Device.of(hardware))
    after = rates_for(hardware)
    assert before is not None
    assert after is not None
    assert (before.basis, after.basis) == ("derived", "calibrated")
    for name in ("matmul_flops_per_s", "attention_share", "host_s", "dequantize_bytes_per_s"):
        measured = getattr(found, name)
        assert measured
        assert all(0 < value < 1e18 and getattr(after, name)[key] == value for key, value in measured.items())
    assert after.matmul_flops_per_s["fp32"] > 0
    assert (after.bandwidth_bytes_per_s, after.kernel_s) == (found.bandwidth_bytes_per_s, found.kernel_s)
    assert (found.processors, found.context_bytes) == (None, None)
    stages = ("matrix products", "memory bandwidth", "de-quantisation", "attention", "launch times")
    assert [stage for stage in stages if stage in said(console)] == list(stages)


def test_a_gpu_is_asked_for_what_only_it_has(hardware: Hardware, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeGpu()
    monkeypatch.setattr("ftadvise.runner.bench_device.bench_device", lambda *_: fake)
    found = calibrate(hardware, console=console, sizes=TINY)
    assert set(found.matmul_flops_per_s) == {"fp32", "tf32"}
    assert fake.precision == [False, False, True, False], "TF32 only while it is measured"
    assert set(found.attention_share) == {"forward", "backward", "efficient_forward", "efficient_backward"}
    assert (found.processors, found.context_bytes) == (108, 500 << 20)
    assert fake.waits > 20


def test_nothing_is_stored_when_measuring_fails(hardware: Hardware, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def too_large(*_: Any) -> Any:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(microbenchmark, "expansion_rates", too_large)
    with pytest.raises(module.OutOfMemoryError, match="some cpu"):
        calibrate(hardware, console=console, sizes=TINY)
    assert not calibration_path().exists()


def test_a_gpu_that_is_only_named_or_that_torch_cannot_use_is_not_measured(hardware: Hardware, console: Console) -> None:
    gpu = Gpu("Card", "NVIDIA", "unknown", 8 << 30, compute_capability=(8, 6))
    with pytest.raises(InputError, match="at hand"):
        calibrate(dataclasses.replace(hardware, gpus=(gpu,), source="named"), console=console)
    with pytest.raises(InputError, match="cannot use Card"):
        calibrate(dataclasses.replace(hardware, gpus=(gpu,)), console=console)


def test_seconds_are_of_one_call() -> None:
    calls = []
    median = median_seconds(lambda: calls.append(1), CpuBenchDevice(), sample_s=1e-4, samples=3)
    assert 0 < median < 1e-4
    assert len(calls) > 5


@pytest.mark.parametrize("capability", [None, (7, 5), (8, 0)])
def test_every_recipe_of_the_check_can_run_somewhere(hardware: Hardware, capability: tuple[int, int] | None) -> None:
    gpu = Gpu("Card", "NVIDIA", "any", 8 << 30, compute_capability=capability, supports_bf16=capability == (8, 0))
    machine = dataclasses.replace(hardware, gpus=(gpu,)) if capability else hardware
    recipes = check_recipes(machine)
    assert {(recipe.method, recipe.quantization) for recipe in recipes} == {("lora", "none"), ("lora", "nf4"), ("full", "none")}
    for recipe in recipes[:2]:
        check_supported(recipe, machine)


def test_the_check_compares_real_steps_and_what_cannot_run_is_left_out(
    hardware: Hardware, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128}
    monkeypatch.setitem(module._CHECK_CONFIGS, "cpu", small)
    monkeypatch.setattr(module, "CHECK_STEPS", 5)
    lora, _, full = (recipe.replace(micro_batch=1, seq_len=16, max_steps=5) for recipe in check_recipes(hardware))
    monkeypatch.setattr(module, "check_recipes", lambda _: (lora.replace(compute_dtype="fp16"), lora, full))
    assert check_calibration(hardware, console=console) == 2
    assert "left out" in said(console)
    runs = load_calibration().runs
    assert [(run.kind, run.recipe["method"], run.steps) for run in runs] == [("calibration", "lora", 4), ("calibration", "full", 4)]
    assert all(run.measured_tokens_per_second > 0 and run.predicted_tokens_per_second > 0 for run in runs)
    assert all(run.measured_peak_bytes > 0 for run in runs)
    found = correction_for(hardware, resolve_model("Qwen/Qwen2.5-0.5B"), lora, stack_of())
    assert found is not None
    assert not found.same_model


def test_ctrl_c_during_the_check_ends_it(hardware: Hardware, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise InterruptedRunError("rehearsal stopped")

    monkeypatch.setattr("ftadvise.runner.supervisor.run_plan", interrupted)
    with pytest.raises(InterruptedRunError, match="figures are stored"):
        check_calibration(hardware, console=console)


@pytest.mark.parametrize(
    ("used", "initialized", "context"),
    [
        ([100, 700], False, 550),  # of the 600 that came, 50 are the allocator's
        ([100, 700], True, None),  # the context was there before
        ([None, None], False, None),  # NVML does not say
        ([700, 100], False, None),  # another process ended meanwhile
    ],
)
def test_the_context_is_what_appeared_beside_the_allocator(
    monkeypatch: pytest.MonkeyPatch, used: list[int | None], initialized: bool, context: int | None
) -> None:
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: initialized)
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda: 50)
    readings = used[1:] if initialized else list(used)
    monkeypatch.setattr(CudaBenchDevice, "_used_bytes", lambda _: readings.pop(0))
    assert CudaBenchDevice("GPU-1").context_bytes() == context


# --- runs ----------------------------------------------------------------------------------------------------------------------------


def test_a_finished_run_adds_what_it_measured_and_the_next_prediction_uses_it(
    make_plan: Callable[..., PlanFile], tiny_model: Path, hardware: Hardware, tmp_path: Path, console: Console
) -> None:
    plan = make_plan(tiny_model, max_steps=6)
    first = run_plan(
        plan,
        out_dir=tmp_path / "first",
        hardware=hardware,
        rehearse=True,
        max_steps=6,
        console=console,
        start=in_this_process(hardware, console),
    )
    assert "added to this machine's calibration" in said(console)
    (run,) = load_calibration().runs
    assert (run.kind, run.model, run.steps, run.rates) == ("run", plan.model_id, 5, "")
    assert run.predicted_peak_bytes == first.predicted_at_measured["memory"]["peak_allocated_bytes"]
    assert first.predicted_at_measured["throughput"]["basis"] == "derived"
    again = run_plan(
        plan,
        out_dir=tmp_path / "again",
        hardware=hardware,
        rehearse=True,
        max_steps=6,
        console=console,
        start=in_this_process(hardware, console),
    )
    expected = again.predicted_at_measured["throughput"]
    assert expected["basis"] != "derived"
    assert expected["tokens_per_second"] == pytest.approx(run.measured_tokens_per_second, rel=0.02)
    second = load_calibration().runs[1]
    assert second.predicted_tokens_per_second == pytest.approx(run.predicted_tokens_per_second), "never corrected by earlier runs"


def test_a_run_that_is_not_to_be_recorded_is_not(
    make_plan: Callable[..., PlanFile], tiny_model: Path, hardware: Hardware, tmp_path: Path, console: Console
) -> None:
    with without_calibration():
        run_plan(
            make_plan(tiny_model),
            out_dir=tmp_path / "off",
            hardware=hardware,
            rehearse=True,
            max_steps=5,
            console=console,
            start=in_this_process(hardware, console),
        )
    assert not calibration_path().exists()
    assert "added" not in said(console)


def test_a_store_that_cannot_be_written_does_not_fail_the_run(
    make_plan: Callable[..., PlanFile], tiny_model: Path, hardware: Hardware, tmp_path: Path, console: Console
) -> None:
    calibration_path().parent.write_text("a file is in the way", encoding="utf-8")
    report = run_plan(
        make_plan(tiny_model),
        out_dir=tmp_path / "run",
        hardware=hardware,
        rehearse=True,
        max_steps=5,
        console=console,
        start=in_this_process(hardware, console),
    )
    assert report.steps == 5
    assert "warning: the run is not added to the calibration" in said(console)
