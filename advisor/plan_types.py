"""What is asked of the advisor, and what it answers: request, plan, reasons, alternatives."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ftadvise.advisor.texts import Text
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


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What the user wants. Everything is optional.

    `fixed` holds recipe fields that the user set by flag; the plan keeps them. `examples` is the number of training examples, when the
    data has been read, and `lengths` their lengths in tokens, which then decide the sequence length and the time. `max_hours` and
    `budget_usd` limit the training time.

    Raises:
        InputError: on construction, for an unknown task, team, priority or recipe field, or a limit that is not positive.
    """

    task: Task | None = None
    team: Team | None = None
    priority: Priority | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    data_path: str | None = None
    examples: int | None = None
    lengths: LengthStats | None = None
    max_hours: float | None = None
    budget_usd: float | None = None

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
            if limit is not None and not limit > 0:
                raise InputError(f"{name} must be more than 0, not {limit}")
        if self.lengths is not None and self.examples is None:
            object.__setattr__(self, "examples", self.lengths.examples)
        # `--method qlora` is a name for LoRA on an NF4 base with double quantisation.
        if self.fixed.get("method") == "qlora":
            quantization = self.fixed.get("quantization", "nf4")
            if quantization not in ("nf4", "fp4"):
                raise InputError(
                    f"QLoRA is LoRA on a 4-bit base, which {quantization!r} is not", hint="use --method lora, or --quantization nf4"
                )
            fixed = {"double_quantization": True} | dict(self.fixed) | {"method": "lora", "quantization": quantization}
            object.__setattr__(self, "fixed", fixed)


@dataclass(frozen=True, slots=True)
class Reason:
    """One rule, or one finding of the planner, and what became of it.

    `detail` says with numbers why a rule was not followed; `note` is what it asks of you.
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

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; sentences in English under the plain key, in Chinese under `..._zh`."""
        document: dict[str, Any] = {"rule": self.rule, "group": self.group, "effect": self.effect, "outcome": self.outcome}
        document |= {"weight": self.weight, "source": self.source}
        for name in ("sentence", "detail", "note", "comment"):
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
class Duration:
    """How long the recommended recipe trains. `cost_usd` is None when the GPU's price is not known."""

    steps: int
    hours: float
    cost_usd: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer: the recommended recipe with its estimate, why, and what else was considered."""

    request: PlanRequest
    approach: Approach
    estimate: Estimate
    score: int
    reasons: tuple[Reason, ...]
    alternatives: tuple[Alternative, ...]
    warnings: tuple[Text, ...]
    duration: Duration | None = None

    @property
    def recipe(self) -> Recipe:
        """The recommended recipe."""
        return self.estimate.recipe

    def reasons_in(self, group: Group) -> tuple[Reason, ...]:
        """The reasons of one group: must (hardware and memory decide), should (experts prefer), choice (settings)."""
        return tuple(reason for reason in self.reasons if reason.group == group)

    def to_json(self) -> dict[str, Any]:
        """The stable document `ftadvise.plan/1`; texts in English under the plain key, in Chinese under `..._zh`. `data` is there when the
        request has `lengths`."""
        lengths = self.request.lengths
        request = dataclasses.asdict(dataclasses.replace(self.request, lengths=None))
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
                "duration": dataclasses.asdict(self.duration) if self.duration else None,
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
            "reasons": [reason.to_json() for reason in self.reasons],
            "warnings": [warning.en for warning in self.warnings],
            "warnings_zh": [warning.zh for warning in self.warnings],
        }


@dataclass(frozen=True, slots=True)
class Change:
    """One change that would make the request fit; `estimate` is what it would then need (None for a change of hardware)."""

    text: Text
    estimate: Estimate | None = None


class NoPlanError(NothingFitsError):
    """No recipe fits; `changes` holds what would make one fit, smallest change first."""

    def __init__(self, message: Text, changes: tuple[Change, ...]) -> None:
        super().__init__(message.en, hint="; or ".join(change.text.en for change in changes) or None)
        self.message = message
        self.changes = changes


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
