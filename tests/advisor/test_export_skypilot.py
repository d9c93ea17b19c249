"""SkyPilot tasks: resources of the plan, commands of ours, paths as values. `make check-exports` asks SkyPilot itself."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from export_plans import HOSTILE, QLORA_7B, a_plan, golden
from hypothesis import given

from ftadvise.advisor.export.skypilot import SKYPILOT, TASK, _accelerators
from ftadvise.estimator.plan_file import PlanFile, read_plan_file
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.gpu_cards import all_gpu_cards


def _task(plan: PlanFile) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(SKYPILOT.export(plan).files[TASK])
    return document


def test_a_plan_for_one_card_is_run_by_ftadvise_on_one_such_card(tmp_path: Path) -> None:
    exported = SKYPILOT.export(a_plan(count=4, **QLORA_7B))
    task = yaml.safe_load(exported.files[TASK])
    assert task["resources"]["accelerators"] == {"RTX4090": 1}, "a plan without sharding uses one of four cards"
    assert task["run"] == "ftadvise run ftadvise-plan.yaml --out ftadvise-run\n"
    assert "file_mounts" not in task
    (tmp_path / "plan.yaml").write_text(exported.files["ftadvise-plan.yaml"], encoding="utf-8")
    plan = read_plan_file(tmp_path / "plan.yaml")
    assert (plan.recipe, plan.made_for.count, plan.data.path) == (a_plan(**QLORA_7B).recipe, 1, None)


def test_data_and_a_local_model_are_copied_and_named_where_they_arrive(tmp_path: Path) -> None:
    data = tmp_path / "my rows.csv"
    data.write_text("text\nhello\n", encoding="utf-8")
    exported = SKYPILOT.export(a_plan(data_path=str(data), local_path=str(tmp_path), loss="full"))
    mounts = yaml.safe_load(exported.files[TASK])["file_mounts"]
    assert mounts == {"/ftadvise-input/rows.csv": str(data), "/ftadvise-input/model": str(tmp_path)}
    script = exported.files["train.py"]
    assert 'MODEL = "/ftadvise-input/model"' in script
    assert 'DATA = Path("/ftadvise-input/rows.csv")' in script
    assert 'row["text"]' in script, "the shape was read here, where the file is"


def test_sixteen_cards_are_two_nodes_with_their_rendezvous() -> None:
    task = _task(a_plan(gpu="A100 SXM4 80GB", memory_gib=80, count=16, sharding="zero3", method="full"))
    assert (task["num_nodes"], task["resources"]["accelerators"]) == (2, {"A100-80GB": 8})
    first, launch = task["run"].splitlines()
    assert first == "MAIN_ADDRESS=\"${SKYPILOT_NODE_IPS%%$'\\n'*}\""
    arguments = shlex.split(launch)
    assert arguments[:3] == ["ftadvise", "run", "ftadvise-plan.yaml"]
    assert dict(zip(arguments[3::2], arguments[4::2], strict=True)) == {
        "--out": "ftadvise-run",
        "--nodes": "2",
        "--node-rank": "$SKYPILOT_NODE_RANK",
        "--rendezvous": "$MAIN_ADDRESS:29500",
    }
    assert "deepspeed" in task["setup"]


def test_the_flags_of_several_nodes_are_those_of_ftadvise_run() -> None:
    from ftadvise.commands.run import command

    arguments = shlex.split(_task(a_plan(gpu="A100 SXM4 80GB", memory_gib=80, count=16, sharding="ddp"))["run"].splitlines()[-1])
    known = {name for option in command.params for name in option.opts}
    assert {word for word in arguments if word.startswith("--")} <= known


def test_a_large_model_gets_a_larger_disk_and_no_gpu_gets_cpus() -> None:
    assert _task(a_plan())["resources"]["disk_size"] == 256 + 14
    assert _task(a_plan(gpu=None))["resources"] == {"cpus": "8+", "memory": "17+", "disk_size": 270}


def test_cards_that_clouds_do_not_rent_are_refused() -> None:
    with pytest.raises(InputError, match="catalog has no RTX 4060"):
        SKYPILOT.export(a_plan(gpu="RTX 4060", memory_gib=8))


def test_every_card_of_the_table_exists() -> None:
    assert set(_accelerators()) <= {card.name for card in all_gpu_cards()}


def test_another_form_of_the_card_is_pointed_out_only_where_it_matters() -> None:
    def notes(**plan: Any) -> str:
        return " ".join(note.en for note in SKYPILOT.export(a_plan(**plan)).notes)

    assert "another form" in notes(gpu="H100 SXM5 80GB", memory_gib=80)
    assert "another form" not in notes(gpu="RTX 4090")
    assert "another form" not in notes(gpu="H100 SXM5 80GB", memory_gib=80, loss="full"), "the script runs on either"


@given(name=HOSTILE)
def test_names_never_reach_a_command(name: str) -> None:
    task = _task(a_plan(model_id=name, data_path="/data/" + name, local_path="/models/" + name, target_modules=(name,)))
    plain = _task(a_plan(model_id="m", data_path="/data/x", local_path="/models/x"))
    assert (task["run"], task["setup"], set(task)) == (plain["run"], plain["setup"], set(plain))
    assert list(task["file_mounts"].values()) == ["/data/" + name.rstrip("/"), str(Path("/models/" + name))]


def test_the_task_of_a_7b_qlora_plan_reads_as_reviewed() -> None:
    golden("skypilot-task.txt", SKYPILOT.export(a_plan(**QLORA_7B)).files[TASK])
