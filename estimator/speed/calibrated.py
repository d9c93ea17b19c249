"""The rates and the correction that hold for a machine now: the data sheet's, or what was measured on it. One question, asked often.

The store is read once for each state of its file. Nothing is read where it cannot matter (a GPU that is only named), and nothing applies
while `without_calibration()` lasts or FTADVISE_NO_CALIBRATION is set to anything.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from ftadvise.estimator.speed.device_rates import rates_of
from ftadvise.estimator.speed.rates import Rates
from ftadvise.profiles.hardware import Hardware

if TYPE_CHECKING:  # most plans are for a GPU that is only named: they need nothing of the store
    from ftadvise.estimator.calibration import Calibration
    from ftadvise.estimator.estimate_types import Stack
    from ftadvise.estimator.recipe import Recipe
    from ftadvise.estimator.speed_correction import Correction
    from ftadvise.profiles.model_spec import ModelSpec

SWITCH = "FTADVISE_NO_CALIBRATION"
_off: ContextVar[bool] = ContextVar("without_calibration", default=False)


@contextmanager
def without_calibration() -> Iterator[None]:
    """In this block nothing that was measured applies, and nothing is added to the store."""
    token = _off.set(True)
    try:
        yield
    finally:
        _off.reset(token)


def calibration_is_off() -> bool:
    """Whether measured figures are neither to be used nor to be added to."""
    return _off.get() or bool(os.environ.get(SWITCH))


def rates_for(hardware: Hardware) -> Rates | None:
    """What the first device of `hardware` reaches: calibrated where it was measured, else derived from its data sheet; None: not known."""
    stored = _stored(hardware)
    return rates_of(hardware) if stored is None else _rates(_Stored(stored), hardware)


def correction_for(hardware: Hardware, model: ModelSpec, recipe: Recipe, stack: Stack) -> Correction | None:
    """`speed_correction` from the store; None where there is nothing to correct by."""
    stored = _stored(hardware)
    if stored is None or not stored.runs:
        return None
    from ftadvise.estimator.speed_correction import kind_of

    return _correction(_Stored(stored), hardware, model.id, stack.name, kind_of(recipe))


def context_bytes_for(hardware: Hardware) -> int | None:
    """What the CUDA context was measured to take on this very GPU, or None."""
    stored = _stored(hardware)
    if stored is None:
        return None
    from ftadvise.estimator.calibration import Device

    found = stored.of(Device.of(hardware))
    return found.context_bytes if found else None


def _stored(hardware: Hardware) -> Calibration | None:
    if calibration_is_off() or (hardware.gpus and hardware.source == "named"):
        return None
    from ftadvise.estimator.calibration_store import load_calibration

    stored = load_calibration()
    return stored if stored.devices or stored.runs else None


class _Stored:
    """A calibration as a key of a cache: by identity, because the store gives the same object until its file changes."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration

    def __hash__(self) -> int:
        return id(self.calibration)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Stored) and self.calibration is other.calibration


@functools.lru_cache(maxsize=16)
def _rates(stored: _Stored, hardware: Hardware) -> Rates | None:
    from ftadvise.estimator.calibration import calibrated_rates

    return calibrated_rates(rates_of(hardware), hardware, stored.calibration)


@functools.lru_cache(maxsize=1024)
def _correction(stored: _Stored, hardware: Hardware, model_id: str, stack_name: str, kind: tuple[bool, str, str, str]) -> Correction | None:
    from ftadvise.estimator.speed_correction import correction_of_kind

    return correction_of_kind(stored.calibration, hardware, model_id, stack_name, kind)
