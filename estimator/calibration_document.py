"""`ftadvise.calibration/1`: the calibration as a JSON document, and back. Nothing in a document that somebody edited is believed unread.

Every dataclass is an object with exactly its fields; the fields' declared types say how each value is checked.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeVar, get_args

from ftadvise.estimator.calibration import Calibration, Device, DeviceCalibration, DeviceKind, RunKind, RunRecord

CALIBRATION_SCHEMA = "ftadvise.calibration/1"
_T = TypeVar("_T", Device, DeviceCalibration, RunRecord)


def to_document(calibration: Calibration) -> dict[str, Any]:
    """JSON-ready."""
    devices, runs = ([dataclasses.asdict(each) for each in group] for group in (calibration.devices, calibration.runs))
    return {"schema": CALIBRATION_SCHEMA, "devices": devices, "runs": runs}


def from_document(document: Any) -> Calibration:
    """The inverse of `to_document`.

    Raises:
        ValueError: another schema, a missing or unknown key, or a value that cannot be; names the key.
    """
    values = _object("the document", document)
    if values.get("schema") != CALIBRATION_SCHEMA:
        raise ValueError(f"schema {str(values.get('schema'))[:60]!r}, not {CALIBRATION_SCHEMA!r}")
    groups = {name: values.get(name) for name in ("devices", "runs")}
    for name, group in groups.items():
        if not isinstance(group, list):
            raise ValueError(f"{name} must be a list")
    return Calibration(
        tuple(_read(DeviceCalibration, "devices", each) for each in groups["devices"] or ()),
        tuple(_read(RunRecord, "runs", each) for each in groups["runs"] or ()),
    )


def _read(cls: type[_T], where: str, value: Any) -> _T:
    values, fields = _object(where, value), dataclasses.fields(cls)
    odd = sorted(set(values) ^ {field.name for field in fields})
    if odd:
        raise ValueError(f"{where}: keys are missing or unknown: {', '.join(odd[:5])}")
    return cls(**{field.name: _READERS[str(field.type)](f"{where}.{field.name}", values[field.name]) for field in fields})


def _object(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    return value


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(where, "text", value)
    return value


def _whole(where: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _wrong(where, "a whole number, 0 or more", value)
    return value


def _positive(where: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not (math.isfinite(value) and value > 0):
        raise _wrong(where, "a number above 0", value)
    return float(value)


def _each(read: Callable[[str, Any], Any]) -> Callable[[str, Any], dict[str, Any]]:
    return lambda where, value: {key: read(f"{where}.{key}", each) for key, each in _object(where, value).items()}


def _optional(read: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda where, value: None if value is None else read(where, value)


def _one_of(*choices: str) -> Callable[[str, Any], Any]:
    def read(where: str, value: Any) -> Any:
        if value not in choices:
            raise _wrong(where, " or ".join(choices), value)
        return value

    return read


def _wrong(where: str, wanted: str, value: Any) -> ValueError:
    return ValueError(f"{where} must be {wanted}, not {str(value)[:40]!r}")


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "Device": lambda where, value: _read(Device, where, value),
    "str": _text,
    "int": _whole,
    "float": _positive,
    "int | None": _optional(_whole),
    "float | None": _optional(_positive),
    "Mapping[str, str]": _each(_text),
    "Mapping[str, float]": _each(_positive),
    "Mapping[str, Any]": _object,
    "DeviceKind": _one_of(*get_args(DeviceKind)),
    "RunKind": _one_of(*get_args(RunKind)),
}
"""By the annotation as it is written."""
