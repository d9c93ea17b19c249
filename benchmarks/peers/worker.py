"""Runs inside a tool's own environment: cases on standard input, one answer for each on standard output.

python -m benchmarks.peers.worker ADAPTER PACKAGE  (needs the standard library and the tool only)
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from benchmarks.peers.case import Case, NoPredictionError, case_from_json
from benchmarks.peers.prediction import Prediction

_LONGEST_NOTE = 240


def main(adapter: str, package: str) -> None:
    """Reads a JSON list of cases, writes {"version", "answers"}; whatever the tool prints goes to standard error."""
    cases = [case_from_json(fields) for fields in json.load(sys.stdin)]
    with contextlib.redirect_stdout(sys.stderr):
        predict = importlib.import_module(f"benchmarks.peers.{adapter}").predict
        answers = [answer(predict, case) for case in cases]
    json.dump({"version": version(package), "answers": answers}, sys.stdout)


def answer(predict: Callable[[Case], Prediction], case: Case) -> dict[str, Any]:
    """Figures in GiB and a note, or a note alone that says why there are none. No error of a tool ends the run."""
    try:
        found = predict(case)
    except NoPredictionError as reason:
        return {"note": shorten(str(reason))}
    except Exception as error:  # noqa: BLE001 - what foreign code raises is its answer
        return {"note": shorten(f"{type(error).__name__}: {error}")}
    return {
        "predicted_gib": round(found.like(case.metric), 3),
        "predicted_device_gib": round(found.device_gib, 3),
        "headline_gib": round(found.headline_gib, 3),
        "note": shorten("; ".join((*found.remarks, *case.remarks))),
    }


def shorten(text: str) -> str:
    """One line of at most 240 characters."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_NOTE else line[: _LONGEST_NOTE - 3] + "..."


if __name__ == "__main__":
    main(*sys.argv[1:3])
