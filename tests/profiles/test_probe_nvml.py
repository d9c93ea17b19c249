"""The real probe and the real pynvml on a fake NVML library, which replaces libnvidia-ml.so.1 at the C-function boundary."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pynvml
import pytest

MIB = 1 << 20
SOURCE = Path(__file__).parent / "fake_nvml" / "fake_nvml.c"
# One process probes several machines: the fake chooses its machine anew at every nvmlInit.
PROBE_ALL = """
import dataclasses, json, os, sys
from ftadvise.profiles.probe import probe
for machine in json.loads(sys.argv[1]):
    os.environ.update(machine)
    print(json.dumps(dataclasses.asdict(probe())))
"""

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("cc") is None, reason="the fake NVML library needs Linux and a C compiler"
)


@pytest.fixture(scope="module")
def library_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fake_nvml")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(SOURCE)], check=True)
    return folder


def _probe(folder: Path, *machines: dict[str, str]) -> list[dict[str, Any]]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("CUDA_", "FAKE_NVML_"))}
    environment["LD_LIBRARY_PATH"] = str(folder)
    done = subprocess.run(
        [sys.executable, "-c", PROBE_ALL, json.dumps(machines)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _machine(folder: Path, scenario: str, **environment: str) -> dict[str, Any]:
    (found,) = _probe(folder, {"FAKE_NVML_SCENARIO": scenario, **environment})
    return found


def test_different_cards_carry_their_own_memory_and_their_profiles_rates(library_folder: Path) -> None:
    machine = _machine(library_folder, "different", FAKE_NVML_PID=str(os.getpid()))
    ada, a100, t4 = machine["gpus"]
    assert [gpu["name"] for gpu in machine["gpus"]] == ["RTX 4090", "A100 SXM4 80GB", "T4"]
    assert [gpu["index"] for gpu in machine["gpus"]] == [0, 1, 2]
    assert (ada["memory_bytes"], ada["free_bytes"]) == (24564 * MIB, (24564 - 1200) * MIB)
    assert t4["memory_bytes"] == 15360 * MIB  # as the driver says, not the nominal 16 GiB
    assert a100["uuid"] == "GPU-bbbb2222-0000-0000-0000-000000000002"
    assert (a100["bf16_flops_per_s"], t4["bf16_flops_per_s"]) == (312e12, None)
    assert (a100["supports_bf16"], t4["supports_bf16"]) == (True, False)
    assert t4["compute_capability"] == [7, 5]
    assert (machine["driver_version"], machine["cuda_version"]) == ("580.65.06", "13.2")
    assert (machine["source"], machine["notes"]) == ("probed", [])


def test_processes_are_merged_named_and_may_hide_their_memory(library_folder: Path) -> None:
    gpu = _machine(library_folder, "different", FAKE_NVML_PID=str(os.getpid()))["gpus"][0]
    own, hidden, graphics = gpu["processes"]
    assert (own["pid"], own["memory_bytes"]) == (os.getpid(), 1000 * MIB)  # listed as compute and as graphics, told once
    assert own["name"]
    assert hidden == {"pid": 2147483000, "name": None, "memory_bytes": None}
    assert graphics["memory_bytes"] == 200 * MIB


@pytest.mark.skipif(not hasattr(pynvml, "nvmlDeviceGetComputeRunningProcesses_v2"), reason="this pynvml cannot ask old drivers")
def test_an_old_driver_is_asked_for_its_version_of_the_process_list(library_folder: Path) -> None:
    machine = _machine(library_folder, "old_driver", FAKE_NVML_PID=str(os.getpid()))
    assert [process["pid"] for process in machine["gpus"][0]["processes"]] == [os.getpid(), 2147483000, 2147483001]
    assert machine["notes"] == []


def test_boards_with_one_nvml_string_are_told_apart_by_memory(library_folder: Path) -> None:
    small, large = _machine(library_folder, "shared_name")["gpus"]
    assert (small["name"], large["name"]) == ("RTX 3060 8GB", "RTX 3060 12GB")
    assert small["bandwidth_bytes_per_s"] < large["bandwidth_bytes_per_s"]


def test_an_unknown_card_keeps_its_memory_and_says_that_its_speed_is_not_known(library_folder: Path) -> None:
    machine = _machine(library_folder, "unknown_card")
    new, old = machine["gpus"]
    assert (new["name"], new["memory_bytes"], new["bf16_flops_per_s"]) == ("NVIDIA Quantum 9000", 65536 * MIB, None)
    assert (new["supports_bf16"], new["supports_flash_attention_2"], new["supports_bitsandbytes"]) == (True, True, True)
    assert (old["supports_bf16"], old["supports_flash_attention_2"], old["supports_bitsandbytes"]) == (False, False, False)
    assert [note.split(" is not among")[0] for note in machine["notes"]] == ["NVIDIA Quantum 9000", "NVIDIA GeForce GT 710"]


def test_mig_instances_are_gpus_of_their_own_size(library_folder: Path) -> None:
    machine = _machine(library_folder, "mig", FAKE_NVML_PID=str(os.getpid()))
    three, one, whole = machine["gpus"]
    assert [gpu["mig"] for gpu in machine["gpus"]] == [True, True, False]
    assert (three["name"], one["name"]) == ("A100 SXM4 40GB MIG 3g.20gb", "A100 SXM4 40GB MIG 1g.5gb")
    assert (three["memory_bytes"], three["free_bytes"], three["uuid"]) == (19968 * MIB, 18968 * MIB, "MIG-three")
    assert one["bf16_flops_per_s"] == pytest.approx(312e12 * 14 / 108)  # 14 of the A100's 108 multiprocessors
    assert (one["processors"], whole["processors"], one["pcie_bytes_per_s"]) == (14, 108, None)
    assert one["bandwidth_bytes_per_s"] == pytest.approx(1555e9 * 4864 / 40960)
    assert one["price_usd_per_hour"] is None
    assert "bf16_flops_per_s" in one["unconfirmed"]
    assert "bf16_flops_per_s" not in whole["unconfirmed"]
    assert [process["pid"] for process in three["processes"]] == [os.getpid()]
    assert machine["notes"] == ["GPU 0 is cut into 2 MIG instances, of which a CUDA process can use one."]


def test_mig_mode_without_instances_leaves_the_card_out(library_folder: Path) -> None:
    machine = _machine(library_folder, "mig_empty")
    assert machine["gpus"] == []
    assert "without instances" in machine["notes"][0]


def test_a_failing_call_costs_its_own_field_only(library_folder: Path) -> None:
    machine = _machine(library_folder, "failing")
    ampere, spark = machine["gpus"]  # GPU 2 has no known memory, GPU 3 is not open to this user
    assert (ampere["name"], ampere["processes"], ampere["free_bytes"]) == ("RTX 3090", [], 24576 * MIB)
    assert ampere["compute_capability"] == [8, 6]  # the driver would not say; the profile does
    assert (spark["name"], spark["memory_bytes"], spark["free_bytes"]) == ("GB10 (DGX Spark)", 128 << 30, None)
    notes = "\n".join(machine["notes"])
    assert "compute processes on GPU 0 could not be read (Insufficient Permissions)" in notes
    assert "memory of GPU 1 could not be read (Not Supported)" in notes
    assert "GPU 2 (NVIDIA Quantum 9000) is left out" in notes
    assert "GPU 3, which is left out, could not be read" in notes


def test_a_card_that_falls_off_the_bus_is_left_out_at_whichever_call_it_happens(library_folder: Path) -> None:
    calls = 8  # handle, MIG mode, UUID, memory, name, compute capability, compute and graphics processes
    machines = _probe(library_folder, *({"FAKE_NVML_SCENARIO": "lost", "FAKE_NVML_ANSWERS": str(n)} for n in range(calls + 1)))
    for machine in machines[:calls]:
        assert [gpu["index"] for gpu in machine["gpus"]] == [0, 2]
        assert machine["notes"] == ["GPU 1 has fallen off the bus and is left out; a reboot usually brings it back."]
    assert [gpu["index"] for gpu in machines[calls]["gpus"]] == [0, 1, 2]
    assert machines[calls]["notes"] == []


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        ("driver_not_loaded", "installed but not loaded"),
        ("driver_mismatch", "different versions"),
        ("no_permission", "no permission"),
        ("odd_failure", "The moon is in the wrong phase"),
        ("no_cards", "shows no GPU"),
    ],
)
def test_a_driver_that_does_not_work_is_a_state_with_one_sentence(library_folder: Path, scenario: str, words: str) -> None:
    machine = _machine(library_folder, scenario)
    assert machine["gpus"] == []
    assert machine["ram_bytes"] > 0
    (note,) = machine["notes"]
    assert words in note


def test_no_driver_library_is_a_state_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")  # hides a real one on the machine of the test
    machine = _machine(tmp_path, "")
    assert machine["gpus"] == []
    (note,) = machine["notes"]
    assert "No NVIDIA driver was found" in note


@pytest.mark.parametrize(
    ("value", "indices"),
    [("", []), ("-1", []), ("2,0", [2, 0]), ("1,7,0", [1]), ("GPU-cccc,GPU-aaaa1111", [2, 0]), ("0,0", [])],
)
def test_cuda_visible_devices_decides_which_cards_there_are(library_folder: Path, value: str, indices: list[int]) -> None:
    machine = _machine(library_folder, "different", CUDA_VISIBLE_DEVICES=value)
    assert [gpu["index"] for gpu in machine["gpus"]] == indices
    assert f"CUDA_VISIBLE_DEVICES='{value}' hides {3 - len(indices)} of 3 GPUs." in machine["notes"]


def test_numbers_of_different_cards_come_with_a_warning_about_their_order(library_folder: Path) -> None:
    chosen = {"FAKE_NVML_SCENARIO": "different", "CUDA_VISIBLE_DEVICES": "1"}
    fastest_first, by_bus = _probe(library_folder, chosen, {**chosen, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    assert any("CUDA_DEVICE_ORDER" in note for note in fastest_first["notes"])
    assert not any("CUDA_DEVICE_ORDER" in note for note in by_bus["notes"])
