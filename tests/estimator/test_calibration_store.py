"""The file of a machine's calibration: what is stored is read again, and what cannot be used is named and kept."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from calibration_stand_ins import GPU, finished, measured
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.estimator.calibration import Calibration, Device, DeviceCalibration
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
from ftadvise.profiles.errors import InputError

pytestmark = pytest.mark.usefixtures("own_store")


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
