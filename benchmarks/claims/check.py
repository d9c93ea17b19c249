"""One figure of a claim, computed: what the claim says it is, what the estimate makes of it, and whether they agree."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import ftadvise
from ftadvise.estimator.estimate_types import Estimate

Verdict = Literal["holds", "sometimes", "never", "unchecked"]
GIB = 2**30
Range = tuple[float, float]
"""What a claim's figure may be to count as true; both ends included."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `claimed` None: shown for comparison, not counted. `beside`: of a published figure, ours of the same setting."""

    what: str
    value: float
    shown: str
    claimed: Range | None
    beside: str = ""

    @property
    def agrees(self) -> bool | None:
        """Whether the figure is as claimed; None where it does not count."""
        return None if self.claimed is None else self.claimed[0] <= self.value <= self.claimed[1]


def verdict(rows: Iterable[Row]) -> Verdict:
    """Over all figures that count: all as claimed, some, or none."""
    found = {row.agrees for row in rows} - {None}
    return "unchecked" if not found else "sometimes" if len(found) == 2 else "holds" if True in found else "never"


def computed(entry: Mapping[str, Any]) -> Iterator[Row]:
    """The rows of one entry of claims.yaml under `ours`; the values of `each` are tried in all combinations."""
    each: Mapping[str, list[Any]] = entry.get("each", {})
    for values in itertools.product(*each.values()):
        setting = dict(zip(each, values, strict=True))
        of, over = {**entry["of"], **setting}, entry.get("over")
        measure = MEASURES[entry["measure"]]
        value = measure(**of) / measure(**{**of, **over}) if over is not None else measure(**of)
        if entry["show"] == "saving":
            value = 1 - value
        words = entry["what"].format(**{name: ", ".join(value) if isinstance(value, list) else value for name, value in of.items()})
        claimed = entry.get("claimed")
        yield Row(words, value, SHOWN[entry["show"]](value), (claimed[0], claimed[1]) if claimed else None)


@functools.lru_cache(maxsize=512)
def _estimate(model: str, gpu: str, recipe: tuple[tuple[str, Any], ...]) -> Estimate:
    found: Estimate = ftadvise.estimate(model, gpu=gpu, **dict(recipe))
    return found


def estimated(model: str, gpu: str = "A100-80GB", **recipe: Any) -> Estimate:
    """The estimate of a setting; lists become tuples."""
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in recipe.items()}
    return _estimate(model, gpu, tuple(sorted(fields.items())))


def _speed(**setting: Any) -> float:
    speed = estimated(**setting).throughput
    if speed is None:
        raise ValueError(f"no speed for {setting}")
    return speed.tokens_per_second


def _matmul_rate(gpu: str, **_: Any) -> float:
    return estimated("SmolLM2-135M", gpu).hardware.gpus[0].bf16_flops_per_s or 0.0


def _trained_share(**setting: Any) -> float:
    found = estimated(**setting)
    return found.trainable_parameters / found.model.total_params


MEASURES: dict[str, Callable[..., float]] = {
    "trained_share": _trained_share,
    "used": lambda **setting: float(estimated(**setting).memory.device_used_bytes),
    "weights": lambda **setting: float(estimated(**setting).memory.components.weights),
    "quantization_constants": lambda **setting: float(estimated(**setting).memory.components.quantization_constants),
    "gradients": lambda **setting: float(estimated(**setting).memory.components.gradients),
    "optimizer_state": lambda **setting: float(estimated(**setting).memory.components.optimizer_state),
    "fits": lambda **setting: float(estimated(**setting).memory.fits),
    "speed": _speed,
    "matmul_rate": _matmul_rate,
}
SHOWN: dict[str, Callable[[float], str]] = {
    "share": lambda value: f"{100 * value:.2g} %",
    "saving": lambda value: f"{100 * value:.0f} % less" if value >= 0 else f"{-100 * value:.0f} % more",
    "gib": lambda value: f"{value / GIB:.1f} GiB",
    "gb": lambda value: f"{value / 1e9:.1f} GB",
    "ratio": lambda value: f"{value:.2f} x",
    "speed": lambda value: f"{value:.2f} x, {'slower' if value < 0.9 else 'faster' if value > 1.1 else 'as fast'}",
    "yes": lambda value: "yes" if value else "no",
}
