"""How a training script starts: plain `python` for one process, `accelerate launch` with its configuration for several."""

from __future__ import annotations

from dataclasses import dataclass, field

from ftadvise.advisor.export.accelerate import ACCELERATE_FILE, launch_files
from ftadvise.advisor.export.account import Account


@dataclass(frozen=True, slots=True)
class Launch:
    """Args:
    command: one line of a POSIX shell.
    files: what the command reads beside the script.
    shards_parameters: whether each process holds a part of every parameter, so that no process loads a whole model.
    """

    command: str
    files: dict[str, str] = field(default_factory=dict)
    shards_parameters: bool = False


def launch_of(account: Account, script: str) -> Launch:
    """The launch of `script`, a file name of ours, on the plan's GPUs."""
    sharding = account.recipe.sharding
    if sharding == "none":
        account.only("offload", "none")
        return Launch(f"python {script}")
    return Launch(
        f"accelerate launch --config_file {ACCELERATE_FILE} {script}",
        launch_files(account),
        shards_parameters=sharding in ("zero3", "fsdp"),
    )
