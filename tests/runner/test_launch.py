"""Launching: what is started for which plan, what the environment and stray configurations may say, and how deaths are told."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.estimator.estimate import estimate
from ftadvise.estimator.plan_file import MadeFor
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.sharding_settings import deepspeed_settings, fsdp_settings
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.resolve_gpu import resolve_gpus
from ftadvise.profiles.resolve_model import resolve_model
from ftadvise.runner.launch import FAILURES, Failure, Launch, describe_failure, read_failures, worker_command
from ftadvise.runner.ranks import any_rank, barrier, gathered, is_main, leave, rank, world_size
from ftadvise.runner.sharding_arguments import deepspeed_document, device_map, quant_storage, sharding_arguments
from ftadvise.runner.supported import check_supported
from ftadvise.runner.supported_sharding import sharding_refusals

DDP, FSDP = Recipe(sharding="ddp"), Recipe(sharding="fsdp")


@pytest.fixture(scope="module")
def gpus(hardware: Hardware) -> Hardware:
    return replace(hardware, gpus=resolve_gpus("4x A100 SXM4 80GB"))


def _flags(command: list[str]) -> dict[str, str]:
    words = command[command.index("ftadvise.runner.launch") + 2 : command.index("ftadvise.runner.worker") - 1]
    return dict(zip(words[::2], words[1::2], strict=True))


def test_one_process_is_the_worker_itself(tmp_path: Path) -> None:
    command, _ = worker_command(tmp_path / "request.json", Recipe(), Launch(), "cuda")
    assert command == [sys.executable, "-m", "ftadvise.runner.worker", str(tmp_path / "request.json")]
    assert list(tmp_path.iterdir()) == []


def test_several_processes_are_accelerate_launch_with_everything_said(tmp_path: Path) -> None:
    command, _ = worker_command(tmp_path / "request.json", replace(FSDP, compute_dtype="bf16"), Launch(4), "cuda")
    flags = _flags(command)
    assert (flags["--num_processes"], flags["--num_machines"], flags["--machine_rank"]) == ("4", "1", "0")
    assert (flags["--main_process_ip"], flags["--main_process_port"]) == ("127.0.0.1", "0")
    assert (flags["--mixed_precision"], flags["--max_restarts"], flags["--dynamo_backend"]) == ("bf16", "0", "no")
    config = json.loads(Path(flags["--config_file"]).read_text(encoding="utf-8"))
    assert config["distributed_type"] == "FSDP"
    assert config["fsdp_config"] == {f"fsdp_{key}": value for key, value in fsdp_settings(FSDP).items()}


def test_nodes_meet_at_the_rendezvous(tmp_path: Path) -> None:
    flags = _flags(worker_command(tmp_path / "request.json", DDP, Launch(8, 2, 1, "node-1:29611"), "cuda")[0])
    assert (flags["--num_processes"], flags["--num_machines"], flags["--machine_rank"]) == ("16", "2", "1")
    assert (flags["--main_process_ip"], flags["--main_process_port"]) == ("node-1", "29611")


def test_deepspeed_holds_the_compute_dtype_without_autocast(tmp_path: Path) -> None:
    recipe = Recipe(sharding="zero2", compute_dtype="bf16")
    assert _flags(worker_command(tmp_path / "request.json", recipe, Launch(2), "cuda")[0])["--mixed_precision"] == "no"
    _, environment = worker_command(tmp_path / "request.json", recipe, Launch(), "cuda")
    assert (environment["RANK"], environment["WORLD_SIZE"], environment["MASTER_ADDR"]) == ("0", "1", "127.0.0.1")


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "MASTER_PORT", "ACCELERATE_USE_DEEPSPEED", "FSDP_VERSION", "PET_NNODES"])
def test_what_another_launcher_left_behind_has_no_say(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "7")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth0")
    for launch in (Launch(), Launch(2)):
        _, environment = worker_command(tmp_path / "request.json", DDP if launch.processes > 1 else Recipe(), launch, "cuda")
        assert name not in environment
        assert environment["NCCL_SOCKET_IFNAME"] == "eth0", "the network is the user's business"


def test_cores_are_shared_unless_the_user_says_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("ftadvise.runner.launch._cores", lambda: 16)
    assert worker_command(tmp_path / "r.json", DDP, Launch(4), "cpu")[1]["OMP_NUM_THREADS"] == "4"
    assert worker_command(tmp_path / "r.json", DDP, Launch(32), "cpu")[1]["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in worker_command(tmp_path / "r.json", Recipe(), Launch(), "cpu")[1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert worker_command(tmp_path / "r.json", DDP, Launch(4), "cpu")[1]["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("node", ("node", 29500)),
        ("node:1", ("node", 1)),
        ("10.0.0.1:65535", ("10.0.0.1", 65535)),
        ("[::1]:80", ("::1", 80)),
        ("[fe80::1]", ("fe80::1", 29500)),
        ("fe80::1", ("fe80::1", 29500)),
    ],
)
def test_rendezvous_is_host_and_port(text: str, address: tuple[str, int]) -> None:
    assert Launch(1, 2, 0, text).address == address


@pytest.mark.parametrize("text", ["", ":1", "node:", "node:x", "node:0", "node:65536", "-node:1", "no de:1", "node\n:1", "node:١"])
def test_what_is_no_rendezvous_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="rendezvous"):
        Launch(1, 2, 0, text)


@given(text=st.text(max_size=30))
def test_any_text_is_an_address_or_an_input_error(text: str) -> None:
    try:
        host, port = Launch(1, 2, 0, text).address
    except InputError:
        return
    assert host
    assert not host.startswith("-")
    assert 0 < port < 65536


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0,), "at least one"),
        ((1, 0), "at least one"),
        ((1, 2, 2, "n"), "node rank 2"),
        ((1, 1, 1), "node rank 1"),
        ((1, 2), "where to meet"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(arguments: tuple[object, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Launch(*arguments)  # type: ignore[arg-type]


def test_a_process_for_each_gpu_where_the_plan_shards(gpus: Hardware, hardware: Hardware) -> None:
    assert Launch.of(Recipe(), gpus) == Launch(1)
    assert Launch.of(DDP, gpus) == Launch(4)
    assert Launch.of(DDP, gpus, processes=2).world_size == 2
    assert Launch.of(FSDP, gpus, nodes=2, rendezvous="n").world_size == 8
    assert Launch.of(Recipe(sharding="zero2", offload="optimizer"), replace(gpus, gpus=gpus.gpus[:1])) == Launch(1)
    with pytest.raises(InputError, match="one process"):
        Launch.of(Recipe(), gpus, processes=2)
    with pytest.raises(InputError, match="several processes"):
        Launch.of(DDP, hardware)
    with pytest.raises(InputError, match="5 processes need as many GPUs, here are 4"):
        Launch.of(DDP, gpus, processes=5)


def test_a_plan_is_made_for_the_gpus_of_all_nodes(gpus: Hardware, hardware: Hardware) -> None:
    assert MadeFor.of(Launch(4, 2, 0, "n").together(gpus)).count == 8
    assert MadeFor.of(Launch(2).together(gpus)).count == 2
    assert Launch().together(gpus) == gpus, "one process does not make the machine smaller"
    assert Launch(2).together(hardware).devices == 2
    once = Launch(4, 2, 0, "n").together(gpus)
    assert Launch(4, 2, 0, "n").together(once) == once


def test_the_worker_knows_its_launch_from_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "9", "LOCAL_RANK": "1", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8", "GROUP_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    launch = Launch.of_environment()
    assert (launch.processes, launch.nodes, launch.node_rank) == (8, 2, 1)
    assert (rank(), world_size(), is_main()) == (9, 16, False)
    assert device_map(DDP, "cuda") == {"": 1}


def test_a_single_process_agrees_with_itself() -> None:
    assert any_rank(True)
    assert not any_rank(False)
    assert gathered({"a": [1]}) == [{"a": [1]}]
    barrier()
    leave()
    assert is_main()


@pytest.mark.parametrize(
    ("signal", "words"), [("SIGKILL", "memory was full"), ("SIGSEGV", "killed by SIGSEGV"), (None, "ended with exit code 7")]
)
def test_a_death_is_told_in_one_sentence(signal: str | None, words: str) -> None:
    assert words in describe_failure(Failure(3, "host", 1, 7, signal))


def test_failures_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    assert read_failures(tmp_path) == ()
    for text in ("", "[", "{}", "[{}]", "[1]", '[{"rank": 1}]'):
        (tmp_path / FAILURES).write_text(text, encoding="utf-8")
        assert read_failures(tmp_path) == ()


def test_launching_needs_no_torch() -> None:
    code = (
        "import sys, ftadvise.runner.launch, ftadvise.runner.ranks, ftadvise.runner.sharding_arguments; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_trainer_shards_as_the_launcher_was_told() -> None:
    assert sharding_arguments(Recipe(), "cuda") == {}
    assert sharding_arguments(DDP, "cuda")["ddp_find_unused_parameters"] is False
    told = sharding_arguments(replace(FSDP, offload="all"), "cuda")["fsdp_config"]
    assert (told["version"], told["cpu_offload"], told["reshard_after_forward"]) == (2, True, True)
    assert told["state_dict_type"] == "FULL_STATE_DICT"
    zero = sharding_arguments(Recipe(sharding="zero3", offload="all", micro_batch=3), "cuda")["deepspeed"]
    assert zero == deepspeed_document(Recipe(sharding="zero3", offload="all", micro_batch=3))
    assert (zero["zero_optimization"]["stage"], zero["train_micro_batch_size_per_gpu"]) == (3, 3)
    assert {"offload_optimizer", "offload_param"} <= zero["zero_optimization"].keys()


def test_optimizers_that_deepspeed_lacks_run_on_the_host_as_they_are() -> None:
    def forced(optimizer: str, offload: str) -> object:
        recipe = Recipe(sharding="zero2", optimizer=optimizer, offload=offload)  # type: ignore[arg-type]
        return deepspeed_settings(recipe, stage=2, offload=recipe.offload).get("zero_force_ds_cpu_optimizer", "default")

    assert forced("adamw_torch", "optimizer") == "default"
    assert forced("adafactor", "optimizer") is False
    assert forced("adafactor", "none") == "default"


@pytest.mark.parametrize(
    ("recipe", "where", "storage"),
    [
        (Recipe(), {"": 0}, None),
        (DDP, {"": 0}, None),
        (FSDP, None, None),
        (replace(FSDP, quantization="nf4"), {"": 0}, "bf16"),
        (Recipe(sharding="zero2", quantization="nf4"), {"": 0}, None),
        (Recipe(sharding="zero3", quantization="fp4", compute_dtype="fp16"), None, "fp16"),
    ],
)
def test_weights_go_where_the_sharding_finds_them(recipe: Recipe, where: object, storage: str | None) -> None:
    assert device_map(recipe, "cuda") == where
    assert quant_storage(recipe) == storage


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sharding": "none", "offload": "all"}, "without sharding"),
        ({"sharding": "ddp", "offload": "optimizer"}, "DDP offloads nothing"),
        ({"sharding": "fsdp", "offload": "optimizer"}, "together"),
        ({"sharding": "zero2", "offload": "all"}, "cannot offload them"),
        ({"sharding": "fsdp", "quantization": "int8"}, "int8"),
        ({"sharding": "zero3", "quantization": "int8"}, "int8"),
        ({"sharding": "fsdp", "method": "prefix"}, "outside the layers"),
        ({"sharding": "fsdp", "adapter_dtype": "bf16"}, "in fp32"),
    ],
)
def test_what_cannot_be_sharded_is_refused_by_name(fields: dict[str, object], words: str, gpus: Hardware) -> None:
    found = list(sharding_refusals(Recipe(**fields), gpus))  # type: ignore[arg-type]
    assert any(words in reason for reason, _ in found)
    assert all(hint for _, hint in found)


def test_without_a_gpu_only_what_gloo_can_do_runs(hardware: Hardware) -> None:
    cpu = {"compute_dtype": "fp32", "gradient_checkpointing": False}
    for sharding in ("ddp", "fsdp"):
        check_supported(Recipe(sharding=sharding, **cpu), hardware)  # type: ignore[arg-type]
    reasons = [reason for reason, _ in sharding_refusals(Recipe(sharding="zero2", **cpu), hardware)]  # type: ignore[arg-type]
    assert any("needs a GPU" in reason for reason in reasons)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_more_processes_hold_less_each(method: str, hardware: Hardware) -> None:
    model = resolve_model("Qwen2.5-0.5B", offline=True)

    def held(processes: int, sharding: str) -> int:
        recipe = Recipe(sharding=sharding, method=method, compute_dtype="fp32")  # type: ignore[arg-type]
        memory = estimate(model, Launch(processes).together(hardware), recipe).memory
        return memory.components.weights + memory.components.optimizer_state

    assert held(4, "fsdp") < held(2, "fsdp") < held(2, "ddp") == held(4, "ddp")
