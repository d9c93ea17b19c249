"""Hours, money and energy of a whole training, from the speed of a step. Hours, US dollars, kWh.

    steps    max_steps, or ceil(sequences * epochs / sequences of a step over all GPUs); a sequence is an example, or with packing what the
             data's lengths fill (packing of data whose lengths are not known is ignored)
    hours    steps * seconds per step; the interval is that of the speed
    energy   hours * GPUs * TDP * the share of it that the step draws: the mean over its classes of work, `power.yaml`
    money    hours * GPUs * price per GPU and hour, and energy * price of electricity where that is given

Steps only: not downloading and loading the model, evaluation and saving, nor a machine that is paid for while it stands idle.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ftadvise.profiles.errors import InputError
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.yaml_store import load_yaml

if TYPE_CHECKING:  # an Estimate holds a Cost
    from ftadvise.estimator.estimate_types import Estimate, ThroughputEstimate
    from ftadvise.estimator.lengths import LengthStats
    from ftadvise.estimator.recipe import Recipe

PriceBasis = Literal["given", "list"]
_GIVEN: PriceBasis = "given"
_LIST: PriceBasis = "list"


class Span(NamedTuple):
    """A figure and the interval around it."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Span:
        """Times a number that is known."""
        return Span(self.value * factor, self.low * factor, self.high * factor)

    def times(self, other: Span) -> Span:
        """The product; its ends are those where both are off in the same direction."""
        return Span(self.value * other.value, self.low * other.low, self.high * other.high)

    def plus(self, other: Span) -> Span:
        """The sum, end by end."""
        return Span(self.value + other.value, self.low + other.low, self.high + other.high)


@dataclass(frozen=True, slots=True)
class Job:
    """What is trained on and what is paid for.

    Args:
        examples: training examples; None: not known, then only `Recipe.max_steps` tells how long the training is.
        lengths: their lengths, which say how many sequences they make when they are packed.
        price_usd_per_gpu_hour: 0 for a card of one's own; None: the list price of the GPU. On a CPU: of the machine.
        electricity_usd_per_kwh: None: the price includes it. Alone it means a card of one's own.

    Raises:
        InputError: no examples, or a price that is negative or not a number.
    """

    examples: int | None = None
    lengths: LengthStats | None = None
    price_usd_per_gpu_hour: float | None = None
    electricity_usd_per_kwh: float | None = None

    def __post_init__(self) -> None:
        for flag, price in (("--price", self.price_usd_per_gpu_hour), ("--electricity", self.electricity_usd_per_kwh)):
            if price is not None and not (math.isfinite(price) and price >= 0):
                raise InputError(f"{flag} must be 0 or more, not {price}")
        if self.lengths is not None and self.examples is None:
            object.__setattr__(self, "examples", self.lengths.examples)
        if self.examples is not None and self.examples < 1:
            raise InputError("examples must be more than 0: there is nothing to train on")
        if self.electricity_usd_per_kwh is not None and self.price_usd_per_gpu_hour is None:
            object.__setattr__(self, "price_usd_per_gpu_hour", 0.0)

    def steps(self, recipe: Recipe, hardware: Hardware) -> int | None:
        """Optimizer steps of the whole training; None when not known."""
        if recipe.max_steps:
            return recipe.max_steps
        packed = self.lengths.packed_sequences(recipe.seq_len) if self.lengths and recipe.packing else None
        sequences = packed or self.examples
        if sequences is None:
            return None
        return math.ceil(sequences * recipe.epochs / (recipe.sequences_per_step * _training(hardware, recipe)))


@dataclass(frozen=True, slots=True)
class Cost:
    """What so many steps cost; `steps` None: a million tokens, padding included. `usd` and `energy_kwh` are None when not known.

    `price_basis`: "given" by the user, or the GPU's "list" price (`profiles.gpu_prices`); None without a price. Energy is the GPUs' alone.
    """

    steps: int | None
    hours: Span
    usd: Span | None
    energy_kwh: Span | None
    price_usd_per_gpu_hour: float | None
    price_basis: PriceBasis | None
    electricity_usd_per_kwh: float | None
    gpus: int

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, as `cost` of an estimate; figures to four digits."""
        document: dict[str, Any] = {"steps": self.steps}
        for name in ("hours", "usd", "energy_kwh"):
            span: Span | None = getattr(self, name)
            ends = zip(("", "_low", "_high"), span or (None,) * 3, strict=True)
            document |= {name + end: None if value is None else float(f"{value:.4g}") for end, value in ends}
        rest = ("price_usd_per_gpu_hour", "price_basis", "electricity_usd_per_kwh", "gpus")
        return document | {name: getattr(self, name) for name in rest}


def with_cost(estimate: Estimate, job: Job) -> Estimate:
    """The estimate with what the job costs, as far as it is known, and what a million tokens cost."""
    speed = estimate.throughput
    if speed is None or speed.tokens_per_second <= 0:
        return dataclasses.replace(estimate, cost=None, cost_per_million_tokens=None)
    error = Span(1.0, speed.tokens_per_second / speed.high, speed.tokens_per_second / speed.low)
    steps = job.steps(estimate.recipe, estimate.hardware)
    whole = None if steps is None else error.scaled(steps * speed.seconds_per_step / 3600)
    million = error.scaled(1e6 / speed.tokens_per_second / 3600)
    return dataclasses.replace(
        estimate,
        cost=None if whole is None else _cost(steps, whole, estimate, speed, job),
        cost_per_million_tokens=_cost(None, million, estimate, speed, job),
    )


def _cost(steps: int | None, hours: Span, estimate: Estimate, speed: ThroughputEstimate, job: Job) -> Cost:
    """All GPUs of the machine are paid for; those that train draw power."""
    gpus = estimate.hardware.gpus
    training = gpus[: _training(estimate.hardware, estimate.recipe)]
    price, basis = job.price_usd_per_gpu_hour, _GIVEN
    if price is None:
        listed = [gpu.price_usd_per_hour for gpu in gpus if gpu.price_usd_per_hour is not None]
        if gpus and len(listed) == len(gpus):
            price, basis = sum(listed) / len(gpus), _LIST
    watts = [gpu.tdp_w for gpu in training if gpu.tdp_w is not None]
    energy = hours.times(power_share(speed)).scaled(sum(watts) / 1000) if gpus and len(watts) == len(training) else None
    usd = None if price is None else hours.scaled(price * max(1, len(gpus)))
    if usd is not None and job.electricity_usd_per_kwh:
        usd = None if energy is None else usd.plus(energy.scaled(job.electricity_usd_per_kwh))
    return Cost(
        steps=steps,
        hours=hours,
        usd=usd,
        energy_kwh=energy,
        price_usd_per_gpu_hour=price,
        price_basis=None if price is None else basis,
        electricity_usd_per_kwh=job.electricity_usd_per_kwh,
        gpus=len(gpus),
    )


def power_share(speed: ThroughputEstimate) -> Span:
    """Share of the board power that a step draws on average, by what its time goes to (`power.yaml`)."""
    power = _power()
    shares = {power["classes"].get(name, _kind(speed)): 0.0 for name in speed.shares} or {_kind(speed): 1.0}
    for name, share in speed.shares.items():
        shares[power["classes"].get(name, _kind(speed))] += share
    total = sum(shares.values()) or 1.0
    ends = (sum(share * power["kinds"][kind][end] for kind, share in shares.items()) / total for end in ("share", "low", "high"))
    return Span(*ends)


def _kind(speed: ThroughputEstimate) -> str:
    """The kind of work of a class that `power.yaml` does not know: what the step is bound by."""
    kind: str = _power()["classes"].get(speed.bound_by, "compute")
    return kind


@functools.cache
def _power() -> dict[str, Any]:
    power: dict[str, Any] = load_yaml(Path(__file__).parent / "power.yaml")
    return power


def _training(hardware: Hardware, recipe: Recipe) -> int:
    """Devices that train: all GPUs where the recipe spreads over them, else one."""
    return 1 if recipe.sharding == "none" else max(1, len(hardware.gpus))
