"""`ftadvise report`: one run, several runs, an unfinished one; harmless whatever is in the folder."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from finished_reports import FALL_BACKS, finished_report, several_ranks
from rich.cells import cell_len

from ftadvise.cli import main
from ftadvise.runner.report import RunReport, read_report, write_report

_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f\u202e]")
_HOSTILE = "<b>[red]x[/red]\x1b[2J\x07\u202e\r\nnext"


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


def _folder(path: Path, report: RunReport) -> Path:
    path.mkdir()
    write_report(path, report)
    return path


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    one = finished_report(attempts=FALL_BACKS, ranks=several_ranks())
    other = dataclasses.replace(finished_report(seed=3), recipe={**one.recipe, "rank": 64, "target_modules": ["q_proj", "v_proj"]})
    return _folder(tmp_path / "a", one), _folder(tmp_path / "b", other)


@pytest.mark.parametrize("width", ["80", "120"])
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_run_is_shown_with_its_history(
    width: str, lang: str, runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    assert _run("report", runs[0], "--lang", lang) == 0
    shown = capsys.readouterr().out
    assert max(cell_len(line) for line in shown.splitlines()) <= int(width)
    assert not _CONTROL.search(shown)
    flat = " ".join(shown.split())
    for figure in (
        "micro_batch 2 → 1, gradient_accumulation 8 → 16".replace(", ", "，" if lang == "zh" else ", "),
        "node-1",
        "7.03 GiB",
        "4 x",
    ):
        assert figure in flat
    assert {"en": "attempt 1, steps 0 to 120: out of memory: 2.00 GiB asked", "zh": "第 1 次尝试，第 0 至 120 步"}[lang] in flat
    assert {"en": "5 evaluations", "zh": "共评估 5 次"}[lang] in flat


def test_runs_are_compared(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(runs[0].parent)
    assert _run("report", "a", "b") == 0
    cells = [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
    rows = {name: figures for name, *figures in cells}
    assert rows["rank"] == ["16", "64"]
    assert rows["target_modules"] == ["all-linear", "q_proj, v_proj"]
    assert rows["attempts"] == ["3", "1"]
    assert [figure.endswith("*") for figure in rows["evaluation loss"]].count(True) == 1
    assert "learning_rate" not in rows


def test_the_best_loss_is_not_marked_where_losses_do_not_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = finished_report(steps=40)
    _folder(tmp_path / "a", one)
    _folder(tmp_path / "b", dataclasses.replace(finished_report(steps=40, seed=1), data={**one.data, "sha256": "0" * 64}))
    assert _run("report", tmp_path / "a", tmp_path / "b") == 0
    shown = capsys.readouterr().out
    assert "not comparable" in shown
    assert not any(line.rstrip().endswith("*") for line in shown.splitlines() if "loss" in line)


def test_a_comparison_is_one_document(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("report", *runs, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "ftadvise.comparison/1"
    assert document["settings"]["rank"] == [16, 64]
    assert [Path(run["run"]).name for run in document["runs"]] == ["a", "b"]


def test_a_report_is_the_document_it_was(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("report", runs[0], "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(read_report(runs[0]).to_json()))


def test_the_page_goes_where_it_may(runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, mine = tmp_path / "page.html", tmp_path / "mine.html"
    mine.write_text("my own page")
    assert _run("report", runs[0], "--html", page) == 0
    first = page.read_text(encoding="utf-8")
    assert "<title>QLoRA of" in first
    assert _run("report", runs[1], "--html", page, "--lang", "zh") == 0
    assert page.with_name("page.html.bak").read_text(encoding="utf-8") == first
    capsys.readouterr()
    assert _run("report", runs[0], "--html", mine) == 2
    assert mine.read_text() == "my own page"
    assert _run("report", *runs, "--html", tmp_path / "both.html") == 2
    assert not (tmp_path / "both.html").exists()
    assert "the page of one run" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [(), ("nowhere",), ("a", "nowhere"), ("a", "b", "--html")])
def test_what_is_not_there_is_one_line(
    arguments: tuple[str, ...], runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs[0].parent)
    assert _run("report", *arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert len(said.err.splitlines()) <= 2


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_hostile_report_is_harmless(lang: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attempt: dict[str, Any] = {
        "number": 1,
        "status": _HOSTILE,
        "message": _HOSTILE,
        "from_step": 0,
        "to_step": 1,
        "changes": {_HOSTILE: [1, _HOSTILE]},
    }
    one = finished_report(steps=3)
    hostile = finished_report(
        steps=3,
        model={"id": _HOSTILE, "parameters": 1},
        versions={_HOSTILE: _HOSTILE},
        hardware={**one.hardware, "gpus": [{**one.hardware["gpus"][0], "name": _HOSTILE}]},
        measured={**one.measured, "definition": _HOSTILE},
        notes=(_HOSTILE,),
        attempts=(attempt, attempt),
        ranks=({**several_ranks(1)[0], "host": _HOSTILE},),
        answer=dataclasses.replace(one.answer, prompt=_HOSTILE, before=_HOSTILE, after=_HOSTILE) if one.answer else None,
        data={"path": _HOSTILE, "sha256": _HOSTILE},
    )
    bad, good = _folder(tmp_path / "bad", hostile), _folder(tmp_path / "good", one)
    assert _run("report", bad, "--lang", lang) == 0
    assert _run("report", bad, good, "--lang", lang) == 0
    shown = capsys.readouterr().out
    assert not _CONTROL.search(shown)
    assert "[red]" in shown
