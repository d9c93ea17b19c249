"""`ftadvise calibrate`, and what the other commands say of a calibration."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from ftadvise.estimator.calibration import Device, DeviceCalibration
from ftadvise.estimator.calibration_store import calibration_path, store_device
from ftadvise.estimator.speed.device_rates import rates_of
from ftadvise.profiles.probe import probe

TORCH = "2.13.0+test"


@pytest.fixture
def columns() -> int:
    return 120


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty store, and versions that do not depend on what is installed."""
    monkeypatch.setenv("FTADVISE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("FTADVISE_NO_CALIBRATION")
    monkeypatch.setattr("ftadvise.estimator.calibration.installed_version", {"torch": TORCH, "ftadvise": "0.1.0"}.get)


def slow_cpu(torch: str = TORCH) -> DeviceCalibration:
    """This machine's CPU, ten times as slow as expected."""
    hardware = dataclasses.replace(probe(), gpus=())
    device, rates = Device.of(hardware), rates_of(hardware)
    assert device is not None
    assert rates is not None
    return DeviceCalibration(
        dataclasses.replace(device, torch=torch),
        created="2026-01-02T03:04:05+00:00",
        matmul_flops_per_s={"fp32": rates.matmul_flops_per_s["fp32"] / 10},
        bandwidth_bytes_per_s=rates.bandwidth_bytes_per_s / 10,
        kernel_s=10 * rates.kernel_s,
        host_s={name: 10 * seconds for name, seconds in rates.host_s.items()},
    )


ESTIMATE = ("estimate", "--model", "Qwen2.5-0.5B", "--gpu", "cpu", "--compute-dtype", "fp32", "--json")


def throughput(outcome: tuple[Any, str, str]) -> dict[str, Any]:
    """The throughput of an estimate's document."""
    found: dict[str, Any] = json.loads(outcome[1])["throughput"]
    return found


def test_an_estimate_uses_the_calibration_unless_it_is_left_out(ftadvise: Any) -> None:
    derived = throughput(ftadvise(*ESTIMATE))
    assert derived["basis"] == "derived"
    store_device(slow_cpu())
    calibrated = throughput(ftadvise(*ESTIMATE))
    assert calibrated["basis"] == "calibrated"
    assert derived["tokens_per_second"] / 11 < calibrated["tokens_per_second"] < derived["tokens_per_second"] / 6
    assert calibrated["high"] / calibrated["low"] < derived["high"] / derived["low"]
    assert throughput(ftadvise(*ESTIMATE, "--no-calibration")) == derived
    assert throughput(ftadvise(*ESTIMATE)) == calibrated, "--no-calibration ends with its command"


def test_a_plan_says_that_its_speed_is_calibrated(ftadvise: Any) -> None:
    store_device(slow_cpu())
    plan = ("plan", "--model", "Qwen2.5-0.5B", "--gpu", "cpu")
    assert "calibrated" in ftadvise(*plan)[1]
    assert "calibrated" not in ftadvise(*plan, "--no-calibration")[1]


def test_a_named_gpu_has_no_calibration(ftadvise: Any) -> None:
    before = ftadvise("estimate", "--model", "Qwen-7B", "--gpu", "A100-80GB", "--json")
    store_device(slow_cpu())
    assert ftadvise("estimate", "--model", "Qwen-7B", "--gpu", "A100-80GB", "--json") == before


def test_a_calibration_of_other_versions_is_shown_but_not_used(ftadvise: Any) -> None:
    derived = throughput(ftadvise(*ESTIMATE))
    store_device(slow_cpu(torch="2.0.0"))
    assert throughput(ftadvise(*ESTIMATE)) == derived
    code, out, _ = ftadvise("calibrate", "--show")
    assert code == 0
    assert "Nothing was measured on this machine with these versions" in out
    assert "torch 2.0.0" in out
    assert "not used" in ftadvise("doctor")[1]


def test_show_says_what_was_measured_beside_what_was_expected(ftadvise: Any) -> None:
    assert "Nothing was measured" in ftadvise("calibrate", "--show")[1]
    store_device(slow_cpu())
    code, out, err = ftadvise("calibrate", "--show")
    assert (code, err) == (0, "")
    assert "matrix products fp32" in out
    assert "from now on" in out
    assert str(calibration_path()) in out.replace("\n", "")
    assert "矩阵乘法 fp32" in ftadvise("calibrate", "--show", "--lang", "zh")[1]
    assert "measured 2026-01-02" in ftadvise("doctor")[1]


def test_show_json_is_one_document(ftadvise: Any) -> None:
    document = json.loads(ftadvise("calibrate", "--show", "--json")[1])
    assert (document["schema"], document["applies"], document["calibration"]) == ("ftadvise.calibrate/1", False, None)
    store_device(slow_cpu())
    document = json.loads(ftadvise("calibrate", "--show", "--json")[1])
    assert document["applies"]
    assert document["calibration"]["created"] == "2026-01-02T03:04:05+00:00"
    figure = next(each for each in document["figures"] if each["name"] == "matmul_flops_per_s")
    assert figure["measured"] == pytest.approx(figure["expected"] / 10)


def test_show_says_when_it_is_switched_off(ftadvise: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store_device(slow_cpu())
    monkeypatch.setenv("FTADVISE_NO_CALIBRATION", "1")
    assert "none of this is used" in ftadvise("calibrate", "--show")[1]
    assert not json.loads(ftadvise("calibrate", "--show", "--json")[1])["applies"]
    assert "switched off" in ftadvise("doctor")[1]
    assert throughput(ftadvise(*ESTIMATE))["basis"] == "derived"


def test_reset_removes_the_store_and_says_so(ftadvise: Any) -> None:
    assert ftadvise("calibrate", "--reset")[:2] == (0, "nothing is stored\n")
    store_device(slow_cpu())
    code, out, _ = ftadvise("calibrate", "--reset")
    assert code == 0
    assert "1 calibrations, 0 runs" in out.replace("\n", " ")
    assert not calibration_path().exists()
    assert json.loads(ftadvise("calibrate", "--reset", "--json")[1])["removed"] is None


def test_a_corrupt_store_is_one_warning_and_the_way_out_works(ftadvise: Any) -> None:
    derived = throughput(ftadvise(*ESTIMATE))
    path = store_device(slow_cpu())
    path.write_text("{", encoding="utf-8")
    assert throughput(ftadvise(*ESTIMATE)) == derived
    assert ftadvise("calibrate", "--show")[0] == 0
    assert ftadvise("calibrate", "--reset")[0] == 0
    assert not path.exists()


def test_the_warning_is_one_line_on_stderr(tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "calibration.json").write_text("{", encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "FTADVISE_NO_CALIBRATION"} | {"FTADVISE_DATA_DIR": str(folder)}
    command = [sys.executable, "-m", "ftadvise", *ESTIMATE]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=True)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"warning: the calibration is ignored: {folder / 'calibration.json'}")
    assert line.endswith("`ftadvise calibrate --reset` removes it")
    assert json.loads(done.stdout)["throughput"]["basis"] == "derived"


def test_show_and_reset_exclude_each_other(ftadvise: Any) -> None:
    code, _, err = ftadvise("calibrate", "--show", "--reset")
    assert code == 2
    assert "exclude each other" in err


def test_without_the_training_libraries_the_command_says_what_to_install(ftadvise: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("ftadvise.runner.supported.version", missing)
    code, out, err = ftadvise("calibrate")
    assert (code, out) == (2, "")
    assert 'pip install "ftadvise[run]"' in err
