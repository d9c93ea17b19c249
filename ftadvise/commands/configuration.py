"""`ftadvise estimate --config`: another trainer's configuration, with what the flags change, and what we would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftadvise.advisor.importing import Imported, read_config
from ftadvise.advisor.texts import Text
from ftadvise.estimator.estimate_types import Estimate
from ftadvise.profiles.errors import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True, slots=True)
class Reading:
    """A configuration, ready to be priced: the model, the stack and the recipe's fields, flags included."""

    path: Path
    imported: Imported
    model: str
    stack: str
    fields: dict[str, Any]
    assumed: tuple[Text, ...]

    def advice(self, estimate: Estimate) -> tuple[Text, ...]:
        """What we would change, priced for the same model, machine and stack."""
        from ftadvise.advisor.importing.advice import advice
        from ftadvise.estimator.estimate import estimate as price

        return advice(estimate, lambda recipe: price(estimate.model, estimate.hardware, recipe, estimate.stack))

    def to_json(self, estimate: Estimate) -> dict[str, Any]:
        """What `--json` adds to the estimate."""
        reading = {
            "path": str(self.path),
            "trainer": self.imported.trainer,
            "assumed": [{"assumption": each.en, "assumption_zh": each.zh} for each in self.assumed],
            "unread": list(self.imported.unread),
            "changes": [{"change": each.en, "change_zh": each.zh} for each in self.advice(estimate)],
        }
        return {"config": reading}

    def view(self, lang: str) -> RenderableType:
        """What was read, before the estimate."""
        from ftadvise.rendering.config_view import reading_view

        return reading_view(self.path, self.imported, self.assumed, lang)

    def advice_view(self, estimate: Estimate, lang: str) -> RenderableType:
        """What we would change, after it."""
        from ftadvise.rendering.config_view import advice_view

        return advice_view(self.advice(estimate), fits=estimate.memory.fits, lang=lang)


def read_configuration(path: Path, *, model: str | None, gpu: str | None, stack: str | None, fields: Mapping[str, Any]) -> Reading:
    """Read `path`; what is given here counts more than what stands there.

    Raises:
        InputError: as `read_config`; or no model is named.
    """
    from ftadvise.profiles.probe import named_hardware, probe

    imported = read_config(path)
    model = model or imported.model
    if model is None:
        raise InputError(f"{path}: names no model", hint="--model NAME")
    hardware = named_hardware(gpu) if gpu else probe()
    own, assumed = imported.on(len(hardware.gpus))
    if fields.get("method") or fields.get("quantization"):  # what belonged to the other method
        own.pop("adapter_dtype", None)
        own.pop("double_quantization", None)
    return Reading(path, imported, model, stack or imported.stack, {**own, **fields}, assumed)
