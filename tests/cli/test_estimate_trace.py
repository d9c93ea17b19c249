"""`ftadvise estimate --trace`: the traced figures, the timeline file, and what is refused. Real model code on the meta device."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ftadvise.cli import cli
from ftadvise.profiles.errors import InputError

SMALL = ["estimate", "--model", "HuggingFaceTB/SmolLM2-135M-Instruct", "--seq-len", "64", "--gradient-accumulation", "1"]


def estimate(*options: str) -> dict[str, object]:
    result = CliRunner().invoke(cli, [*SMALL, "--json", *options], catch_exceptions=False)
    document: dict[str, object] = json.loads(result.stdout)
    return document


@pytest.mark.train
def test_the_trace_agrees_with_the_analytic_estimate(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    timeline = tmp_path / "timeline.csv"
    derived, traced = estimate("--gpu", "RTX 4090"), estimate("--gpu", "RTX 4090", "--trace", "--timeline", str(timeline))
    assert (derived["basis"], traced["basis"]) == ("derived", "traced")
    memory, expected = traced["memory"], derived["memory"]
    assert isinstance(memory, dict)
    assert isinstance(expected, dict)
    assert memory["basis"] == "traced"
    assert memory["peak_allocated_bytes"] == pytest.approx(expected["peak_allocated_bytes"], rel=0.01)
    parts = {name: size for name, size in memory["components"].items() if name != "context"}
    assert sum(parts.values()) == memory["peak_allocated_bytes"]
    assert memory["peak_allocated_bytes"] <= memory["peak_reserved_bytes"] <= memory["device_used_bytes"] <= memory["high_bytes"]
    assert memory["peak_operation"]
    with timeline.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    training = [int(row["allocated_bytes"]) for row in rows if row["phase"] not in ("evaluation", "save")]
    assert max(training) == memory["peak_allocated_bytes"]
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.train
def test_expandable_segments_never_reserve_more(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    plain, expandable = estimate("--gpu", "T4", "--trace"), estimate("--gpu", "T4", "--trace", "--expandable-segments")
    assert expandable["memory"]["peak_reserved_bytes"] <= plain["memory"]["peak_reserved_bytes"]  # type: ignore[index]


@pytest.mark.parametrize("option", [["--expandable-segments"], ["--timeline", "out.csv"]])
def test_options_of_the_trace_need_it(option: list[str]) -> None:
    with pytest.raises(InputError, match="belong to the trace") as error:
        CliRunner().invoke(cli, [*SMALL, "--gpu", "T4", *option], catch_exceptions=False, standalone_mode=False)
    assert error.value.hint == "add --trace"


@pytest.mark.train
def test_an_unwritable_timeline_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    with pytest.raises(InputError, match="cannot be written"):
        CliRunner().invoke(
            cli,
            [*SMALL, "--gpu", "T4", "--trace", "--timeline", str(tmp_path / "missing" / "x.csv")],
            catch_exceptions=False,
            standalone_mode=False,
        )
