"""Several processes of one run: who am I, when do we meet, what do we agree on. Every function answers for a single process as well.

torchrun (under `accelerate launch`) says in the environment who is who. What the ranks tell each other here travels over gloo, from host
memory: it never waits for a GPU, and works while one is out of memory.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from datetime import timedelta
from typing import Any

from ftadvise.estimator.recipe import Recipe

TIMEOUT_S = 1800
"""How long a rank waits for the others. The first one reads the checkpoint (tens of GB, perhaps from a network folder) and tokenises the
data while the others wait. A rank that dies is noticed at once, by the launcher."""

_PR_SET_PDEATHSIG = 1
"""prctl(2), linux/prctl.h."""


def rank() -> int:
    """This process among all, from 0."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process among those on this machine, from 0: also the GPU it trains on."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes what is written once."""
    return rank() == 0


def join(recipe: Recipe, device: str) -> None:
    """Take this process's GPU, if any, and meet the others; before anything is loaded.

    FSDP on the CPU, which accelerate knows on accelerators only, is made possible here: it behaves the same over gloo.

    Args:
        device: "cpu" or "cuda".
    """
    if device == "cuda":
        import torch

        torch.cuda.set_device(local_rank())
    if world_size() == 1:
        return
    _end_with_launcher()
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl", timeout=timedelta(seconds=TIMEOUT_S))
    if device == "cpu" and recipe.sharding == "fsdp":
        from accelerate.state import DistributedType, PartialState

        PartialState(cpu=True)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def _end_with_launcher() -> None:
    """Have the Linux kernel kill this rank when its launcher is killed: torchrun starts ranks in sessions of their own."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def leave() -> None:
    """Take leave of the others, so that no rank ends while another still needs it. Not after an error: they would wait in vain."""
    if world_size() == 1:
        return
    import torch.distributed as dist

    if dist.is_initialized():
        barrier()
        dist.destroy_process_group()


def barrier() -> None:
    """Wait until every rank is here."""
    any_rank(False)


def any_rank(flag: bool) -> bool:
    """Whether `flag` is true in any rank; all must ask."""
    if world_size() == 1:
        return flag
    import torch
    import torch.distributed as dist

    seen = torch.tensor([int(flag)])
    dist.all_reduce(seen, op=dist.ReduceOp.MAX)
    return bool(seen.item())


def gathered(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The JSON documents of all ranks, in their order, in every rank; all must ask."""
    if world_size() == 1:
        return [document]
    import json

    import torch
    import torch.distributed as dist

    mine = torch.frombuffer(bytearray(json.dumps(document).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.long) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(mine)]))
    longest = max(int(size) for size in sizes)
    texts = [torch.zeros(longest, dtype=torch.uint8) for _ in sizes]
    dist.all_gather(texts, torch.nn.functional.pad(mine, (0, longest - len(mine))))
    return [json.loads(bytes(text[: int(size)].tolist())) for text, size in zip(texts, sizes, strict=True)]
