"""What a tool says about a row, told apart by what was measured; and the checks that several adapters share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.peers.case import Case, Metric, NoPredictionError

KNOWN_METHODS = ("full", "lora", "qlora")


@dataclass(frozen=True, slots=True)
class Prediction:
    """GiB (2^30). Each figure is the part of the tool's breakdown that is defined like the measurement it is compared with.

    `allocated_gib`: torch's peak of allocated tensors. `reserved_gib`: of the caching allocator. `device_gib`: what nvidia-smi shows of the
    process. `headline_gib`: the total that the tool shows to its user.
    """

    allocated_gib: float
    reserved_gib: float
    device_gib: float
    headline_gib: float
    remarks: tuple[str, ...] = ()

    def like(self, metric: Metric) -> float:
        """The figure to hold against a measurement; one whose metric the source does not name is held against what the process takes."""
        return {"allocated": self.allocated_gib, "reserved": self.reserved_gib, "unnamed": self.device_gib}[metric]


def require_known_method(case: Case) -> None:
    """No tool of the four knows other methods than these, fully trained modules beside adapters, or states that leave the card.

    Raises:
        NoPredictionError: another method, embedding and head trained as well, or full fine-tuning with paged states.
    """
    if case.method not in KNOWN_METHODS:
        raise NoPredictionError(f"method {case.method}: the tool knows full, lora and qlora")
    if case.modules_to_save:
        raise NoPredictionError(f"cannot express that {' and '.join(case.modules_to_save)} are fully trained beside the adapters")
    if case.method == "full" and case.optimizer.startswith("paged"):
        raise NoPredictionError("cannot express that the optimizer's states are paged out of the card")


def require_bitsandbytes(case: Case) -> None:
    """Most tools price bitsandbytes formats only.

    Raises:
        NoPredictionError: GPTQ, AWQ or AQLM weights.
    """
    if case.quantization not in ("none", "nf4"):
        raise NoPredictionError(f"base weights in {case.quantization}: the tool knows bitsandbytes formats only")


def narrowest(presets: Mapping[str, tuple[str, ...]], targets: tuple[str, ...]) -> str:
    """The first of a tool's presets, narrowest first, that contains the targets (an adapter on the head apart)."""
    wanted = set(targets) - {"head"}
    return next(name for name, roles in presets.items() if wanted <= set(roles))


def priced_as(roles: tuple[str, ...], targets: tuple[str, ...]) -> list[str]:
    """A remark when the tool prices other layers than those that were adapted."""
    return [f"targets priced as {', '.join(roles)}"] if set(roles) != set(targets) - {"head"} else []


def dropped(case: Case, *, loss: bool = True) -> tuple[str, ...]:
    """Remarks on settings that a tool cannot be told: the loss (unless `loss` is False), and adapters on the head."""
    found = []
    if loss and case.fused_loss:
        found.append("fused loss not expressible")
    if "head" in case.targets:
        found.append("adapter on the head not expressible")
    return tuple(found)
