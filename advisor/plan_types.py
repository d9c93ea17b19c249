"""What is asked of the advisor, and what it answers: request, plan, reasons, alternatives."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ftadvise.advisor.texts import Text
from ftadvise.estimator.cost import Cost, Job
from ftadvise.estimator.data_settings import DataSettings
from ftadvise.estimator.estimate_types import Estimate
from ftadvise.estimator.lengths import LengthStats
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError, NothingFitsError, did_you_mean

Approach = Literal["lora", "lora_int8", "qlora", "full"]
"""What is chosen between: LoRA on a 16-bit base, on an 8-bit base, on a 4-bit base, or full fine-tuning."""
Task = Literal["research", "prototype", "chat", "multi_tenant", "edge"]
Team = Literal["beginner", "experienced"]
Priority = Literal["accuracy", "cost", "speed", "memory"]
Group = Literal["must", "should", "choice"]
Outcome = Literal["applied", "overridden", "outweighed", "moot", "fixed", "elsewhere"]
"""How a rule fared: followed; its answer does not fit; other rules weigh more; its reason does not hold here; you fixed it otherwise; it is
advice for another machine."""

APPROACH_LABELS: dict[Approach, str] = {"lora": "LoRA", "lora_int8": "LoRA on int8", "qlora": "QLoRA", "full": "full fine-tuning"}
PLAN_DOCUMENT = "ftadvise.plan/1"
MAX_SEQ_LEN = 10_000_000
ChangeKind = Literal[
    "gradient_checkpointing", "micro_batch", "optimizer", "rank", "quantization", "seq_len", "method", "offload", "gpus", "gpu", "memory"
]
"""What a change is about, by how little it gives up; see `advisor.changes`."""


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What the user wants. Everything is optional.

    `fixed` holds recipe fields that the user set by flag; the plan keeps them. `examples` is the number of training examples, when the
    data has been read, and `lengths` their lengths in tokens, which then decide the sequence length and the time. `max_hours` and
    `budget_usd` limit the training, and no plan has shorter sequences than `min_seq_len`; what is paid per GPU and hour, and for
    electricity, is as in `estimator.cost.Job`.

    Raises:
        InputError: on construction, for an unknown task, team, priority or recipe field, a limit that is not positive, or a negative price.
    """

    task: Task | None = None
    team: Team | None = None
    priority: Priority | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    data: DataSettings = field(default_factory=DataSettings)
    examples: int | None = None
    lengths: LengthStats | None = None
    max_hours: float | None = None
    budget_usd: float | None = None
    min_seq_len: int | None = None
    price_usd_per_gpu_hour: float | None = None
    electricity_usd_per_kwh: float | None = None

    def __post_init__(self) -> None:
        for name, choices in (("task", get_args(Task)), ("team", get_args(Team)), ("priority", get_args(Priority))):
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise InputError(f"unknown {name} {value!r}", hint=did_you_mean(str(value), choices) or f"one of {', '.join(choices)}")
        known = [recipe_field.name for recipe_field in dataclasses.fields(Recipe)]
        for name in self.fixed:
            if name not in known:
                raise InputError(f"{name!r} is not a recipe field", hint=did_you_mean(name, known))
        for name, limit in (("examples", self.examples), ("max_hours", self.max_hours), ("budget", self.budget_usd)):
            if limit is not None and not (limit > 0 and math.isfinite(limit)):
                raise InputError(f"{name} must be more than 0, not {limit}")
        shortest, seq_len = self.min_seq_len, self.fixed.get("seq_len")
        if shortest is not None and (type(shortest) is not int or not 1 <= shortest <= MAX_SEQ_LEN):
            raise InputError(f"--min-seq-len must be a whole number from 1 to {MAX_SEQ_LEN:,}, not {shortest}")
        if shortest is not None and isinstance(seq_len, int) and seq_len < shortest:
            raise InputError(f"--seq-len {seq_len} is shorter than --min-seq-len {shortest}", hint="leave one of them out")
        object.__setattr__(self, "examples", self.job.examples)
        # `--method qlora` is a name for LoRA on an NF4 base with double quantisation.
        if self.fixed.get("method") == "qlora":
            quantization = self.fixed.get("quantization", "nf4")
            if quantization not in ("nf4", "fp4"):
                raise InputError(
                    f"QLoRA is LoRA on a 4-bit base, which {quantization!r} is not", hint="use --method lora, or --quantization nf4"
                )
            fixed = {"double_quantization": True} | dict(self.fixed) | {"method": "lora", "quantization": quantization}
            object.__setattr__(self, "fixed", fixed)

    @property
    def job(self) -> Job:
        """What the training's cost depends on beside the recipe."""
        return Job(self.examples, self.lengths, self.price_usd_per_gpu_hour, self.electricity_usd_per_kwh)


@dataclass(frozen=True, slots=True)
class Reason:
    """One rule, or one finding of the planner, and what became of it.

    `detail` says with numbers why a rule was not followed; `note` is what it asks of you; `origin` tells a rule of the user's own,
    and which it replaces.
    """

    rule: str
    group: Group
    sentence: Text
    effect: str
    outcome: Outcome
    weight: int = 0
    source: str = ""
    detail: Text | None = None
    note: Text | None = None
    comment: Text | None = None
    origin: Text | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; sentences in English under the plain key, in Chinese under `..._zh`."""
        document: dict[str, Any] = {"rule": self.rule, "group": self.group, "effect": self.effect, "outcome": self.outcome}
        document |= {"weight": self.weight, "source": self.source}
        for name in ("sentence", "detail", "note", "comment", "origin"):
            text: Text | None = getattr(self, name)
            document |= {name: text.en if text else None, f"{name}_zh": text.zh if text else None}
        return document


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another recipe that was considered, and why it is not the recommended one. `score` is the sum of its rules' weights."""

    label: str
    estimate: Estimate
    reason: Text
    score: int

    @property
    def recipe(self) -> Recipe:
        """The alternative's recipe."""
        return self.estimate.recipe


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """Where a step's time goes, what would make it shorter, and what would make it smaller; each sentence with this machine's figures."""

    bound: Text
    faster: tuple[Text, ...] = ()
    smaller: tuple[Text, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, by language as in a plan."""
        return {
            "bound": self.bound.en,
            "bound_zh": self.bound.zh,
            "faster": [each.en for each in self.faster],
            "faster_zh": [each.zh for each in self.faster],
            "smaller": [each.en for each in self.smaller],
            "smaller_zh": [each.zh for each in self.smaller],
        }


@dataclass(frozen=True, slots=True)
class Change:
    """One change that would make a recipe fit; `estimate` is what it would then need, on the machine of the change (None: not priced)."""

    text: Text
    estimate: Estimate | None = None
    kind: ChangeKind = "memory"

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, by language as in a plan."""
        document: dict[str, Any] = {"change": self.text.en, "change_zh": self.text.zh, "kind": self.kind}
        if self.estimate is not None:
            gpus = self.estimate.hardware.gpus
            prices = [gpu.price_usd_per_hour for gpu in gpus]
            document |= {
                "recipe": self.estimate.recipe.to_dict(),
                "gpu": gpus[0].name if gpus else None,
                "gpus": len(gpus),
                "usd_per_hour": None if not gpus or None in prices else round(sum(filter(None, prices)), 4),
                "high_bytes": self.estimate.memory.high_bytes,
            }
        return document


@dataclass(frozen=True, slots=True)
class Wanted:
    """The approach that the rules want most of those that do not fit, and what would have to change for it."""

    label: str
    score: int
    changes: tuple[Change, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"label": self.label, "score": self.score, "changes": [change.to_json() for change in self.changes]}


@dataclass(frozen=True, slots=True)
class Variation:
    """The recommended recipe with one size changed, priced: what the next longer sequence, larger batch or higher rank costs."""

    field: str
    text: Text
    estimate: Estimate

    def to_json(self, base: Estimate) -> dict[str, Any]:
        """JSON-ready; differences are to `base`."""
        memory, speed, base_speed = self.estimate.memory, self.estimate.throughput, base.throughput
        return {
            "field": self.field,
            "change": self.text.en,
            "change_zh": self.text.zh,
            "seq_len": self.estimate.recipe.seq_len,
            "micro_batch": self.estimate.recipe.micro_batch,
            "gradient_accumulation": self.estimate.recipe.gradient_accumulation,
            "rank": self.estimate.recipe.rank,
            "device_used_bytes": memory.device_used_bytes,
            "high_bytes": memory.high_bytes,
            "more_bytes": memory.device_used_bytes - base.memory.device_used_bytes,
            "verdict": memory.verdict,
            "tokens_per_second": round(speed.tokens_per_second, 2) if speed else None,
            "faster": round(speed.tokens_per_second / base_speed.tokens_per_second - 1, 4) if speed and base_speed else None,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer: the recommended recipe with its estimate, why, and what else was considered. `bottleneck` is None when its speed is not
    known."""

    request: PlanRequest
    approach: Approach
    estimate: Estimate
    score: int
    reasons: tuple[Reason, ...]
    alternatives: tuple[Alternative, ...]
    warnings: tuple[Text, ...]
    bottleneck: Bottleneck | None = None
    sensitivity: tuple[Variation, ...] = ()
    wanted: Wanted | None = None

    @property
    def recipe(self) -> Recipe:
        """The recommended recipe."""
        return self.estimate.recipe

    @property
    def cost(self) -> Cost | None:
        """What the whole training costs; None when its length is not known."""
        return self.estimate.cost

    def reasons_in(self, group: Group) -> tuple[Reason, ...]:
        """The reasons of one group: must (hardware and memory decide), should (experts prefer), choice (settings)."""
        return tuple(reason for reason in self.reasons if reason.group == group)

    def to_json(self) -> dict[str, Any]:
        """The stable document `ftadvise.plan/1`; texts in English under the plain key, in Chinese under `..._zh`. `data` is there when the
        request has `lengths`."""
        lengths = self.request.lengths
        request = dataclasses.asdict(dataclasses.replace(self.request, lengths=None)) | {"data": self.request.data.to_dict()}
        request |= {"fixed": {key: _plain(value) for key, value in self.request.fixed.items()}}
        del request["lengths"]  # thousands of numbers; `data` has what matters
        return {
            "schema": PLAN_DOCUMENT,
            "request": request,
            **({"data": lengths.to_json(self.recipe)} if lengths else {}),
            "recommended": {
                "label": self.recipe.label,
                "score": self.score,
                "recipe": self.recipe.to_dict(),
                "estimate": self.estimate.to_json(),
                "duration": self._duration(),
                "bottleneck": self.bottleneck.to_json() if self.bottleneck else None,
                "sensitivity": [each.to_json(self.estimate) for each in self.sensitivity],
            },
            "alternatives": [
                {
                    "label": each.label,
                    "score": each.score,
                    "estimate": each.estimate.to_json(),
                    "reason": each.reason.en,
                    "reason_zh": each.reason.zh,
                }
                for each in self.alternatives
            ],
            "wanted": self.wanted.to_json() if self.wanted else None,
            "reasons": [reason.to_json() for reason in self.reasons],
            "warnings": [warning.en for warning in self.warnings],
            "warnings_zh": [warning.zh for warning in self.warnings],
        }

    def _duration(self) -> dict[str, Any] | None:
        """The cost in three figures; `estimate.cost` has all of them."""
        cost = self.cost
        return {"steps": cost.steps, "hours": cost.hours.value, "cost_usd": cost.usd.value if cost.usd else None} if cost else None


class NoPlanError(NothingFitsError):
    """No recipe fits; `changes` holds what would make one fit, smallest change first, and `leanest` the recipe that needs least."""

    def __init__(self, message: Text, changes: tuple[Change, ...], leanest: Estimate | None = None) -> None:
        super().__init__(message.en, hint="; or ".join(change.text.en for change in changes) or None)
        self.message = message
        self.changes = changes
        self.leanest = leanest


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
