"""What is checked in a report.json before anything is shown of it: it may come from anywhere. Imports pydantic: late.

The documents inside a report (estimate, measured memory, hardware) are checked as far as something is read from them; the rest stays as it
is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ftadvise.estimator.estimate_types import Phase
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.printable import one_line
from ftadvise.runner.report import RunReport

Size = Annotated[int, Field(strict=True, ge=0, le=1 << 60)]
Step = Annotated[int, Field(strict=True, ge=0, le=10**12)]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e18, le=1e18)]
Positive = Annotated[float, Field(allow_inf_nan=False, ge=0, le=1e18)]


class _Components(BaseModel):
    weights: Size
    quantization_constants: Size
    adapters: Size
    gradients: Size
    optimizer_state: Size
    activations: Size
    loss: Size
    workspace: Size
    context: Size = 0


class _Memory(BaseModel):
    peak_allocated_bytes: Size
    peak_reserved_bytes: Size | None
    device_used_bytes: Size | None
    peak_phase: Phase
    components: _Components


class _Measured(_Memory):
    definition: str


class _Speed(BaseModel):
    tokens_per_second: Positive
    seconds_per_step: Positive
    low: Positive
    high: Positive


class _Estimate(BaseModel):
    memory: _Memory
    throughput: _Speed | None = None


class _Gpu(BaseModel):
    name: str
    memory_bytes: Size


class _Cpu(BaseModel):
    name: str


class _Hardware(BaseModel):
    gpus: list[_Gpu]
    cpu: _Cpu
    ram_bytes: Size


class _Model(BaseModel):
    id: str


class _Batch(BaseModel):
    sequences: Step
    length: Step


class _Attempt(BaseModel):
    number: Step
    status: str
    from_step: Step
    to_step: Step
    message: str = ""
    changes: dict[str, tuple[Any, Any]] = {}


class _Rank(BaseModel):
    rank: Step
    host: str
    measured: _Measured


class _Peak(BaseModel):
    allocated_bytes: Size | None = None
    reserved_bytes: Size | None = None
    device_used_bytes: Size | None = None


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    prompt: str
    before: str
    after: str


class _Report(BaseModel):
    """The fields of `RunReport`, as JSON."""

    model_config = ConfigDict(extra="forbid")

    created: str
    versions: dict[str, str]
    hardware: _Hardware
    model: _Model
    plan: dict[str, Any]
    recipe: dict[str, Any]
    data: dict[str, Any]
    predicted: dict[str, Any]
    predicted_at_measured: _Estimate
    batch: _Batch
    measured: _Measured
    steps: Step
    losses: list[tuple[Step, Number | None]]
    tokens_per_second: Positive | None
    seconds_per_step: Positive | None
    total_seconds: Positive
    rehearsal: bool = False
    resumed_from_step: Step = 0
    answer: _Answer | None = None
    saved: str | None = None
    notes: list[str] = []
    evaluations: list[tuple[Step, Number | None]] = []
    timeline: list[tuple[Step, Positive, Size | None]] = []
    attempts: list[_Attempt] = []
    ranks: list[_Rank] = []
    training_peak: _Peak | None = None


def parse_report(document: dict[str, Any], path: Path) -> RunReport:
    """The report in a JSON document.

    Raises:
        InputError: a value is of the wrong kind or out of range; names `path` and the key.
    """
    try:
        _Report.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = one_line(".".join(str(part) for part in first["loc"]))[:100]
        raise InputError(f"{path}: {key}: {first['msg']}") from None
    Recipe.from_dict(document["recipe"], where=f"{path}: recipe")
    return TypeAdapter(RunReport).validate_python(document)
