"""Time of communication between GPUs: bytes that each one sends, over the rate of its link.

A ring over N devices sends, for a tensor of B bytes, B (N-1)/N to gather or scatter it and twice that to reduce it for all.

    ddp          gradients are all-reduced once per optimizer step, while the backward pass runs
    zero1        gradients are all-reduced; updated parameters are gathered
    zero2        gradients are scattered, in each backward pass; updated parameters are gathered
    zero3, fsdp  parameters are gathered for each forward and each backward pass, gradients scattered in each backward pass

Communication runs beside computation as far as it can (`Rates.overlap`): the first gathering of a pass has nothing to run beside, and
copies into and out of flat buffers, and the kernels of the collectives, take bandwidth and processors from the products.
Source: torch distributed (DDP, FSDP) and DeepSpeed's documentation of ZeRO; nccl-tests doc/PERFORMANCE.md.
"""

from __future__ import annotations

from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.speed.rates import Rates


def sent_bytes(recipe: Recipe, gpus: int, *, parameters: int, gradients: int) -> int:
    """Bytes that one GPU sends in one optimizer step. `parameters`: of the whole model; `gradients`: of what is trained."""
    if gpus < 2 or recipe.sharding == "none":
        return 0
    once, passes = (gpus - 1) / gpus, recipe.gradient_accumulation
    if recipe.sharding == "ddp":
        sent = 2 * gradients
    elif recipe.sharding == "zero1":
        sent = 3 * gradients
    elif recipe.sharding == "zero2":
        sent = (passes + 1) * gradients
    else:
        sent = passes * (2 * parameters + gradients)
    return int(sent * once)


_UNIT_OPERATIONS = 25
"""What the host does for one gathered unit in one pass: allocate, gather, make views, release, with events between streams
(torch/distributed/fsdp/_runtime_utils.py _pre_forward to _post_forward; counted in the source)."""


def unit_operations(recipe: Recipe, gpus: int, *, layers: int, tensors: int) -> int:
    """Operations of the host in one pass for units that are gathered apart: layers, and, because PEFT's wrapping policy for FSDP wraps
    each of them, the adapters' tensors (peft utils/other.py fsdp_auto_wrap_policy).
    """
    if gpus < 2 or recipe.sharding not in ("zero3", "fsdp"):
        return 0
    adapters = tensors if recipe.sharding == "fsdp" and recipe.method != "full" else 0
    return _UNIT_OPERATIONS * (layers + 1 + adapters)


def exposed_seconds(sent: int, rates: Rates, hidden_s: float) -> float:
    """Seconds that communication adds to `hidden_s` seconds of computation: what of it cannot run beside that, or does not fit."""
    if not sent or not rates.link_bytes_per_s:
        return 0.0
    seconds = sent / rates.link_bytes_per_s
    beside = seconds * rates.overlap
    return seconds - beside + max(0.0, beside - hidden_s)
