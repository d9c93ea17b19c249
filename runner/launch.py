"""How workers are started: one process, or several through `accelerate launch`; and what became of those that died.

`python -m ftadvise.runner.launch` is `accelerate launch` with two differences: Ctrl-C and SIGTERM go on to the workers, once each and
without a deadline (torchrun would kill them after 30 s, in the middle of a checkpoint), and of ranks that die it leaves failures.json.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftadvise.estimator.plan_file import write_text_atomically
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.sharding_settings import fsdp_settings
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.hardware import Hardware

PORT = 29500
"""Where the nodes meet when the rendezvous names no port."""
FAILURES = "failures.json"
_PATIENCE_S = 10
"""How long the ranks have to end after one of them died; one that waits for the dead in a CUDA kernel hears no signal but SIGKILL."""
_LAUNCHER_FILE = "accelerate.yaml"
_STRAY = ("ACCELERATE_", "FSDP_", "TORCHELASTIC_", "TORCHRUN_", "PET_")
_WHO_IS_WHO = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class Launch:
    """How many processes on each of how many machines, which of them this one is, and where they meet ("HOST:PORT" of the first)."""

    processes: int = 1
    nodes: int = 1
    node_rank: int = 0
    rendezvous: str | None = None

    def __post_init__(self) -> None:
        if self.processes < 1 or self.nodes < 1:
            raise InputError(f"a run needs at least one process on one node, not {self.processes} on {self.nodes}")
        if not 0 <= self.node_rank < self.nodes:
            raise InputError(
                f"node rank {self.node_rank} does not exist among {self.nodes} nodes", hint=f"ranks are 0 to {self.nodes - 1}: --node-rank"
            )
        if self.nodes > 1 and self.rendezvous is None:
            raise InputError(f"{self.nodes} nodes have to know where to meet", hint="--rendezvous HOST:PORT, an address of the first node")
        if self.rendezvous is not None:
            _address(self.rendezvous)

    @property
    def world_size(self) -> int:
        """All processes together."""
        return self.processes * self.nodes

    @property
    def address(self) -> tuple[str, int]:
        """(host, port) of the first node; port 0 means any free one, which a single node chooses itself."""
        return _address(self.rendezvous) if self.rendezvous is not None else ("127.0.0.1", 0)

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        hardware: Hardware,
        *,
        processes: int | None = None,
        nodes: int = 1,
        node_rank: int = 0,
        rendezvous: str | None = None,
    ) -> Launch:
        """The launch that a recipe needs on this machine.

        Args:
            processes: on this node; by default one per visible GPU where the recipe shards, else one.

        Raises:
            InputError: the recipe, the GPUs and these numbers contradict each other.
        """
        launch = cls(processes or (max(1, len(hardware.gpus)) if recipe.sharding != "none" else 1), nodes, node_rank, rendezvous)
        _check_launch(launch, recipe, len(hardware.gpus))
        return launch

    @classmethod
    def of_environment(cls) -> Launch:
        """The launch that this worker belongs to, as torchrun tells it."""
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        nodes = max(1, int(os.environ.get("WORLD_SIZE", "1")) // processes)
        return cls(processes, nodes, int(os.environ.get("GROUP_RANK", "0")), "127.0.0.1" if nodes > 1 else None)

    def together(self, hardware: Hardware) -> Hardware:
        """What the processes of all nodes train on, when each node is like `hardware`: what the plan was made for."""
        if hardware.gpus:
            return dataclasses.replace(hardware, gpus=hardware.gpus[: self.processes] * self.nodes) if self.world_size > 1 else hardware
        return dataclasses.replace(hardware, cpu_processes=self.world_size)


def _check_launch(launch: Launch, recipe: Recipe, gpus: int) -> None:
    if recipe.sharding == "none" and launch.world_size > 1:
        raise InputError(
            f"the plan trains in one process (sharding: none), not in {launch.world_size}",
            hint="plan for several GPUs: ftadvise plan --gpu '2x NAME', or set sharding: ddp",
        )
    if recipe.sharding in ("ddp", "fsdp") and launch.world_size == 1:
        raise InputError(f"sharding {recipe.sharding} needs several processes", hint="use sharding: none, or --processes 2")
    if gpus and launch.processes > gpus:
        raise InputError(f"{launch.processes} processes need as many GPUs, here are {gpus}", hint=f"--processes {gpus}")


def worker_command(request_path: Path, recipe: Recipe, launch: Launch, device: str) -> tuple[list[str], dict[str, str]]:
    """The command that starts this node's workers, and their whole environment. Writes accelerate's configuration beside the request.

    What other launchers left in the environment, and the user's own configuration of accelerate, have no say.

    Args:
        device: "cpu" or "cuda".

    Raises:
        InputError: the configuration cannot be written.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_STRAY) and name not in _WHO_IS_WHO}
    if device == "cpu":
        environment |= {"ACCELERATE_USE_CPU": "true"}
    worker = ["-m", "ftadvise.runner.worker", str(request_path)]
    if launch.world_size == 1:
        if recipe.sharding != "none":  # ZeRO on one GPU, for its offload
            environment |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        return [sys.executable, *worker], environment
    environment.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // launch.processes)))  # torchrun would give each process one
    host, port = launch.address
    config = request_path.with_name(_LAUNCHER_FILE)
    write_text_atomically(config, json.dumps(_configuration(recipe), indent=1) + "\n")  # JSON is YAML
    flags = {
        "--config_file": str(config),
        "--num_processes": str(launch.world_size),
        "--num_machines": str(launch.nodes),
        "--machine_rank": str(launch.node_rank),
        "--main_process_ip": host,
        "--main_process_port": str(port),
        "--rdzv_backend": "static",
        "--max_restarts": "0",  # the supervisor decides what is tried again
        "--mixed_precision": _mixed_precision(recipe),
        "--dynamo_backend": "no",
    }
    command = [sys.executable, "-m", __name__, str(request_path.with_name(FAILURES))]
    return [*command, *(word for flag in flags.items() for word in flag), *worker], environment


@dataclass(frozen=True, slots=True)
class Failure:
    """A rank that ended badly. `signal` names what killed it, None when it ended by itself."""

    rank: int
    host: str
    pid: int
    exit_code: int
    signal: str | None


def read_failures(folder: Path) -> tuple[Failure, ...]:
    """The ranks of an attempt that ended badly on this node, the first one first; empty when none did."""
    try:
        return tuple(Failure(**each) for each in json.loads((folder / FAILURES).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return ()


def describe_failure(failure: Failure) -> str:
    """One sentence for the user."""
    where = f"rank {failure.rank} on {failure.host}"
    if failure.signal == "SIGKILL":
        return f"{where} was killed by SIGKILL, probably because the host's memory was full"
    if failure.signal is not None:
        return f"{where} was killed by {failure.signal}"
    return f"{where} ended with exit code {failure.exit_code}"


def _configuration(recipe: Recipe) -> dict[str, Any]:
    """DeepSpeed is set up by the worker, for which it is the same launch as DDP."""
    values: dict[str, Any] = {"compute_environment": "LOCAL_MACHINE", "debug": False, "distributed_type": "MULTI_GPU", "gpu_ids": "all"}
    if recipe.sharding == "fsdp":
        values |= {"distributed_type": "FSDP", "fsdp_config": {f"fsdp_{key}": value for key, value in fsdp_settings(recipe).items()}}
    return values


def _mixed_precision(recipe: Recipe) -> str:
    """DeepSpeed holds the model in the compute dtype instead."""
    return "no" if recipe.compute_dtype == "fp32" or recipe.sharding.startswith("zero") else recipe.compute_dtype


def _address(rendezvous: str) -> tuple[str, int]:
    """Host and port of "host", "host:port", "[ipv6]" or "[ipv6]:port"."""
    host, colon, port = rendezvous.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        host, port = rendezvous, str(PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or host.startswith("-") or any(c.isspace() or not c.isprintable() for c in host):
        raise InputError(f"--rendezvous must be HOST:PORT, not {rendezvous[:80]!r}")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise InputError(f"--rendezvous {rendezvous[:80]!r}: the port must be a number from 1 to 65535")
    return host, int(port)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main(arguments: list[str]) -> int:
    """Launch the workers and wait for them; returns 0 when all ended well.

    Args:
        arguments: where failures.json goes, then the arguments of `accelerate launch`.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    options = launch_command_parser().parse_args(arguments[1:])
    options.signals_to_handle = "SIGUSR2"  # torchrun's own handlers would replace these
    options.shutdown_timeout = _PATIENCE_S
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _pass_on)
    try:
        launch_command(options)
    except ChildFailedError as error:
        failures = sorted((_failure(*each) for each in error.failures.items()), key=lambda each: _telling(each.exit_code))
        write_text_atomically(Path(arguments[0]), json.dumps([dataclasses.asdict(each) for each in failures], indent=1) + "\n")
        return 1
    return 0


def _failure(rank: int, failure: Any) -> Failure:
    killed = failure.exitcode < 0
    return Failure(rank, socket.gethostname(), failure.pid, failure.exitcode, failure.signal_name() if killed else None)


def _telling(exit_code: int) -> int:
    """Of ranks that ended in the same tenth of a second: killed, then an error of ours with a code of its own, then whatever follows."""
    return 0 if exit_code < 0 and exit_code != -signal.SIGTERM else 1 if exit_code > 1 else 2


def _pass_on(number: int, _frame: Any) -> None:
    import psutil

    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            child.send_signal(number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
