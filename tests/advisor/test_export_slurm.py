"""Slurm scripts: a shell reads them, options follow the plan, names never reach a command."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from export_plans import HOSTILE, QLORA_7B, a_plan, golden
from hypothesis import given

from ftadvise.advisor.export.slurm import BATCH, SLURM
from ftadvise.estimator.plan_file import PlanFile

SPEED = {"memory": {}, "throughput": {"seconds_per_step": 6.0, "tokens_per_second": 3000.0, "low": 2000.0}}
BIG = {"gpu": "H100 SXM5 80GB", "memory_gib": 80, "count": 16, "method": "full"}


def _options(plan: PlanFile) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", SLURM.export(plan).files[BATCH], re.MULTILINE))


def test_one_card_is_one_task_of_ftadvise_run_that_is_interrupted_in_time() -> None:
    exported = SLURM.export(a_plan(predicted=SPEED, max_steps=1000, **QLORA_7B))
    assert exported.files[BATCH].endswith("\nsrun ftadvise run ftadvise-plan.yaml --out ftadvise-run\n")
    options = _options(a_plan(predicted=SPEED, max_steps=1000, **QLORA_7B))
    assert (options["nodes"], options["ntasks-per-node"], options["gpus-per-node"]) == ("1", "1", "1")
    assert options["signal"] == "INT@300"
    assert options["time"] == "0-03:00:00", "1000 steps of 9 s at the slow end, and half an hour"


def test_the_time_of_epochs_comes_from_the_rows(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text((json.dumps({"text": "x"}) + "\n") * 6400, encoding="utf-8")
    plan = {"data_path": str(rows), "predicted": SPEED, "epochs": 3.0, **QLORA_7B}
    assert _options(a_plan(**plan))["time"] == "0-03:30:00", "1200 steps of 9 s"
    assert _options(a_plan(**plan, count=4, sharding="ddp"))["time"] == "0-01:20:00", "four cards share the rows"


@pytest.mark.parametrize(
    "predicted", [{}, {"throughput": None}, {"throughput": {"seconds_per_step": "x"}}, {"throughput": {**SPEED["throughput"], "low": 0}}]
)
def test_without_a_prediction_no_time_is_invented(predicted: dict[str, object]) -> None:
    plan = a_plan(predicted=predicted, max_steps=10)
    assert "time" not in _options(plan)
    assert any("--time" in note.en for note in SLURM.export(plan).notes)


def test_sixteen_cards_are_two_nodes_and_one_ftadvise_run_on_each() -> None:
    exported = SLURM.export(a_plan(sharding="fsdp", **BIG))
    options = _options(a_plan(sharding="fsdp", **BIG))
    assert (options["nodes"], options["gpus-per-node"], options["cpus-per-task"]) == ("2", "8", "64")
    assert options["signal"] == "INT@300"
    last = shlex.split(exported.files[BATCH].splitlines()[-1])
    assert last[:-1] == ["srun", "--kill-on-bad-exit=1", "bash", "-c"]
    run = "ftadvise run ftadvise-plan.yaml --out ftadvise-run"
    assert last[-1] == f'{run} --nodes 2 --node-rank "$SLURM_NODEID" --rendezvous "$MAIN_ADDRESS:29500"'
    assert set(exported.files) == {BATCH, "ftadvise-plan.yaml"}


def test_another_loss_than_ours_is_the_plain_script_under_accelerate() -> None:
    exported = SLURM.export(a_plan(sharding="fsdp", loss="full", **BIG))
    last = shlex.split(exported.files[BATCH].splitlines()[-1])
    assert '--machine_rank "$SLURM_NODEID" --main_process_ip "$MAIN_ADDRESS"' in last[-1]
    assert {"train.py", "accelerate.yaml"} <= set(exported.files)


def test_offloaded_states_need_host_memory() -> None:
    def memory(**recipe: str) -> int:
        return int(_options(a_plan(**BIG, **recipe))["mem"].removesuffix("G"))

    assert memory(sharding="zero3", offload="optimizer") - memory(sharding="zero3") == pytest.approx(7 * 12 / 2 / 1.0737, abs=1)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    "plan",
    [a_plan(), a_plan(loss="full"), a_plan(sharding="zero2", **BIG), a_plan(sharding="zero2", loss="full", **BIG), a_plan(gpu=None)],
)
def test_bash_reads_the_script(plan: PlanFile, tmp_path: Path) -> None:
    """The commands are replaced by one that prints its arguments."""
    for name, text in SLURM.export(plan).files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    fake = tmp_path / "bin"
    fake.mkdir()
    for command, does in {
        "srun": 'while [[ "$1" == --* ]]; do shift; done; "$@"',
        "scontrol": "printf 'node-1\\nnode-2\\n'",
        "ftadvise": "args",
        "accelerate": "args",
        "python": "args",
    }.items():
        printing = f"printf '%s\\n' {command} \"$@\"" if does == "args" else does
        (fake / command).write_text(f"#!/bin/bash\n{printing}\n", encoding="utf-8")
        (fake / command).chmod(0o755)
    environment = {
        "PATH": f"{fake}:/usr/bin:/bin",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_NODEID": "1",
        "SLURM_JOB_NODELIST": "node-[1-2]",
    }
    done = subprocess.run(["bash", str(tmp_path / BATCH)], capture_output=True, text=True, env=environment, check=True)
    said = done.stdout.splitlines()
    assert said[0] in ("ftadvise", "accelerate", "python")
    if plan.made_for.count == 16 and plan.recipe.loss == "full":
        assert said[said.index("--machine_rank") + 1] == "1"
        assert said[said.index("--main_process_ip") + 1] == "node-1"
    elif plan.made_for.count == 16:
        assert said[1:3] == ["run", "ftadvise-plan.yaml"]
        assert said[said.index("--node-rank") + 1] == "1"
        assert said[said.index("--rendezvous") + 1] == "node-1:29500"


@given(name=HOSTILE)
def test_names_never_reach_the_script(name: str) -> None:
    hostile = a_plan(model_id=name, local_path=name, data_path=name, target_modules=(name,), high_precision_modules=(name,))
    assert SLURM.export(hostile).files[BATCH] == SLURM.export(a_plan(local_path="x", data_path="x")).files[BATCH]


def test_the_script_of_a_7b_qlora_plan_reads_as_reviewed() -> None:
    golden("slurm-job.txt", SLURM.export(a_plan(predicted=SPEED, max_steps=1000, **QLORA_7B)).files[BATCH])
