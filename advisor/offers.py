"""The reverse question: which GPUs can do it, with which recipe, in what time and for how much."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ftadvise.advisor.candidates import defaults
from ftadvise.advisor.changes import Elsewhere
from ftadvise.advisor.limits import within_limits
from ftadvise.advisor.plan_types import PlanRequest
from ftadvise.advisor.planner import find, remembered
from ftadvise.advisor.rule_schema import Rule
from ftadvise.estimator.cost import Cost, with_cost
from ftadvise.estimator.estimate_types import Estimate
from ftadvise.profiles.gpu_cards import all_gpu_cards, card_to_gpu
from ftadvise.profiles.hardware import Gpu, Hardware
from ftadvise.profiles.model_spec import ModelSpec

OFFERS_DOCUMENT = "ftadvise.offers/1"
_FORMS = ("consumer", "datacenter", "workstation")


@dataclass(frozen=True, slots=True)
class Offer:
    """One GPU that can do it. `pareto`: none of the others is both faster and cheaper; `within_limits`: of time and money."""

    estimate: Estimate
    score: int
    within_limits: bool
    pareto: bool = False

    @property
    def gpu(self) -> Gpu:
        """The GPU, of which there is one."""
        return self.estimate.hardware.gpus[0]

    @property
    def cost(self) -> Cost | None:
        """What the whole training costs, or a million tokens where its length is not known."""
        return self.estimate.cost or self.estimate.cost_per_million_tokens

    @property
    def hours(self) -> float | None:
        """Of the training, or of a million tokens."""
        return self.cost.hours.value if self.cost else None

    @property
    def usd(self) -> float | None:
        """The same in US dollars."""
        return self.cost.usd.value if self.cost and self.cost.usd else None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        memory, speed, recipe = self.estimate.memory, self.estimate.throughput, self.estimate.recipe
        return {
            "gpu": self.gpu.name,
            "memory_bytes": self.gpu.memory_bytes,
            "usd_per_hour": self.gpu.price_usd_per_hour,
            "label": recipe.label,
            "recipe": recipe.to_dict(),
            "score": self.score,
            "device_used_bytes": memory.device_used_bytes,
            "high_bytes": memory.high_bytes,
            "verdict": memory.verdict,
            "tokens_per_second": round(speed.tokens_per_second, 2) if speed else None,
            "steps": self.cost.steps if self.cost else None,
            "hours": None if self.hours is None else float(f"{self.hours:.4g}"),
            "usd": None if self.usd is None else float(f"{self.usd:.4g}"),
            "within_limits": self.within_limits,
            "pareto": self.pareto,
        }


@dataclass(frozen=True, slots=True)
class Offers:
    """The answer: `found`, those within the limits first, then the cheaper, then the faster; and the GPUs on which nothing fits."""

    model: ModelSpec
    request: PlanRequest
    seq_len: int
    found: tuple[Offer, ...]
    too_small: tuple[str, ...]

    @property
    def per_million_tokens(self) -> bool:
        """Whether hours and dollars are those of a million tokens, because the length of the training is not known."""
        return all(offer.estimate.cost is None for offer in self.found)

    def to_json(self) -> dict[str, Any]:
        """The stable document `ftadvise.offers/1`."""
        request = self.request
        return {
            "schema": OFFERS_DOCUMENT,
            "model": {"id": self.model.id, "parameters": self.model.total_params},
            "max_hours": request.max_hours,
            "budget_usd": request.budget_usd,
            "examples": request.examples,
            "seq_len": self.seq_len,
            "per_million_tokens": self.per_million_tokens,
            "offers": [offer.to_json() for offer in self.found],
            "too_small": list(self.too_small),
        }


def gpus_on_offer() -> tuple[Gpu, ...]:
    """Single GPUs that one can buy or rent and train on: no laptops, no boards without bitsandbytes; one of several that are the same."""
    found: dict[tuple[object, ...], Gpu] = {}
    for card in all_gpu_cards():
        if card.form in _FORMS and card.memory_bytes and card.supports_bitsandbytes and card.vendor == "NVIDIA":
            gpu = card_to_gpu(card)
            rates = (gpu.memory_bytes, gpu.bandwidth_bytes_per_s, gpu.fp16_flops_per_s, gpu.fp32_flops_per_s, gpu.price_usd_per_hour)
            found.setdefault((card.family or card.name, *rates), gpu)
    return tuple(found.values())


def offers(
    model: ModelSpec, machine: Hardware, gpus: Iterable[Gpu], request: PlanRequest, elsewhere: Elsewhere, rules: tuple[Rule, ...]
) -> Offers:
    """The plan for each of the GPUs, each alone in `machine`, all at one sequence length, so that times and costs compare.

    Raises:
        InputError: as `planner.make_plan`.
    """
    seq_len = _common_length(model, request)
    asked, request = request, dataclasses.replace(request, fixed={**request.fixed, "seq_len": seq_len})
    found, too_small = [], []
    for gpu in gpus:
        hardware = dataclasses.replace(machine, gpus=(gpu,), source="named")
        result, _, _ = find(model, hardware, request, remembered(elsewhere(hardware), request), rules, only_best=True)
        chosen = result.chosen
        if chosen is None or chosen.best is None:
            too_small.append(gpu.name)
        else:
            best = with_cost(chosen.best, request.job)
            found.append(Offer(best, chosen.score, within_limits(best, request)))
    return Offers(model, asked, seq_len, tuple(sorted(_with_front(found), key=_order)), tuple(too_small))


def _common_length(model: ModelSpec, request: PlanRequest) -> int:
    """The user's, else the default, not longer than the model's or the data's, not shorter than --min-seq-len."""
    if "seq_len" in request.fixed:
        length: int = request.fixed["seq_len"]
        return length
    length = defaults()["seq_len"]["default"]
    if request.lengths is not None:
        length = min(length, request.lengths.covering_seq_len)
    return max(min(length, model.max_position or length), request.min_seq_len or 0)


def _order(offer: Offer) -> tuple[object, ...]:
    missing = float("inf")
    usd, hours = (missing if value is None else value for value in (offer.usd, offer.hours))
    return (not offer.within_limits, usd, hours, offer.gpu.name)


def _with_front(found: Sequence[Offer]) -> list[Offer]:
    """The offers with `pareto` set: time against money among those that have both and keep the limits."""
    priced = [(offer.hours, offer.usd) for offer in found if offer.within_limits and offer.hours is not None and offer.usd is not None]

    def beaten(offer: Offer) -> bool:
        if offer.hours is None or offer.usd is None or not offer.within_limits:
            return True
        here = (offer.hours, offer.usd)
        return any(hours <= here[0] and usd <= here[1] and (hours, usd) != here for hours, usd in priced)

    return [dataclasses.replace(offer, pareto=not beaten(offer)) for offer in found]
