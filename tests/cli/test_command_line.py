"""The command line as a user meets it: answers, exit codes, one-line errors, languages, pipes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftadvise.cli import COMMANDS
from ftadvise.profiles.errors import InterruptedRunError


@pytest.fixture
def columns() -> int:
    return 100


def test_every_command_has_a_module_and_its_own_help(ftadvise: Any) -> None:
    for name in COMMANDS:
        outcome = ftadvise(name, "--help")
        assert outcome.code == 0
        assert outcome.out.startswith(f"Usage: ftadvise {name}")


def test_plan_writes_a_plan_file_and_says_what_is_next(ftadvise: Any) -> None:
    outcome = ftadvise("plan", "--model", "Qwen-7B", "--gpu", "RTX 4090")
    assert outcome.code == 0
    assert "gpu.high_end" in outcome.out
    assert "size.le_7b" in outcome.out
    assert "fits" in outcome.out
    assert "next: ftadvise run ftadvise-plan.yaml" in outcome.err
    assert Path("ftadvise-plan.yaml").exists()


def test_plan_keeps_the_plan_it_replaces(ftadvise: Any) -> None:
    ftadvise("plan", "--model", "Qwen-7B", "--gpu", "RTX 4090")
    first = Path("ftadvise-plan.yaml").read_bytes()
    outcome = ftadvise("plan", "--model", "Qwen-7B", "--gpu", "RTX 3060 12GB")
    assert "ftadvise-plan.yaml.bak" in outcome.err
    assert Path("ftadvise-plan.yaml.bak").read_bytes() == first
    assert Path("ftadvise-plan.yaml").read_bytes() != first


def test_plan_does_not_overwrite_what_is_not_a_plan(ftadvise: Any) -> None:
    Path("notes.yaml").write_text("mine: true\n", encoding="utf-8")
    outcome = ftadvise("plan", "--model", "Qwen-7B", "--gpu", "RTX 4090", "-o", "notes.yaml")
    assert outcome.code == 2
    assert "not a plan file" in outcome.err
    assert Path("notes.yaml").read_text(encoding="utf-8") == "mine: true\n"


def test_plan_json_is_one_document_and_writes_nothing(ftadvise: Any) -> None:
    outcome = ftadvise("plan", "--model", "Qwen-7B", "--gpu", "A100-80GB", "--json")
    document = json.loads(outcome.out)
    assert document["schema"] == "ftadvise.plan/1"
    assert document["recommended"]["estimate"]["schema"] == "ftadvise.estimate/1"
    assert all(each["estimate"]["schema"] == "ftadvise.estimate/1" for each in document["alternatives"])
    assert {"rule", "sentence", "effect"} <= set(document["reasons"][0])
    assert not Path("ftadvise-plan.yaml").exists()


def test_the_three_cards_get_different_plans(ftadvise: Any) -> None:
    def recipe(gpu: str) -> dict[str, Any]:
        recommended: dict[str, Any] = json.loads(ftadvise("plan", "--model", "Qwen-7B", "--gpu", gpu, "--json").out)["recommended"]
        return recommended

    large, small, huge = recipe("RTX 4090"), recipe("RTX 3060 12GB"), recipe("A100-80GB")
    assert (large["label"], small["label"], huge["label"]) == ("LoRA", "QLoRA", "LoRA")
    assert huge["recipe"]["seq_len"] > large["recipe"]["seq_len"]
    assert all(each["estimate"]["memory"]["fits"] for each in (large, small, huge))


def test_a_fixed_flag_stays_fixed(ftadvise: Any) -> None:
    outcome = ftadvise("plan", "--model", "Qwen-7B", "--gpu", "RTX 4090", "--rank", "8", "--seq-len", "300", "--json")
    recipe = json.loads(outcome.out)["recommended"]["recipe"]
    assert (recipe["rank"], recipe["seq_len"]) == (8, 300)


def test_nothing_fits_is_exit_code_3_with_what_would(ftadvise: Any) -> None:
    outcome = ftadvise("plan", "--model", "Llama-2-70b-hf", "--gpu", "RTX 3060 12GB")
    assert outcome.code == 3
    assert "one RTX A6000 with" in outcome.err
    assert not Path("ftadvise-plan.yaml").exists()
    document = json.loads(ftadvise("plan", "--model", "Llama-2-70b-hf", "--gpu", "RTX 3060 12GB", "--json").out)
    assert document["recommended"] is None
    assert document["changes"]


def test_estimate_prices_one_recipe(ftadvise: Any) -> None:
    arguments = ("--model", "Qwen2.5-7B", "--gpu", "RTX 4090", "--method", "qlora", "--micro-batch", "2", "--seq-len", "2048")
    outcome = ftadvise("estimate", *arguments)
    assert outcome.code == 0
    assert "QLoRA" in outcome.out
    assert "nf4 + double quantisation" in outcome.out
    document = json.loads(ftadvise("estimate", *arguments, "--json").out)
    assert document["recipe"]["quantization"] == "nf4"
    assert document["recipe"]["double_quantization"] is True


def test_estimate_of_what_does_not_fit_is_exit_code_3(ftadvise: Any) -> None:
    outcome = ftadvise("estimate", "--model", "Qwen2.5-7B", "--gpu", "RTX 4090", "--method", "full")
    assert outcome.code == 3
    assert "does not fit" in outcome.out


def test_rank_without_alpha_scales_alpha(ftadvise: Any) -> None:
    document = json.loads(ftadvise("estimate", "--model", "Qwen2.5-7B", "--gpu", "A100-80GB", "--rank", "64", "--json").out)
    assert document["recipe"]["alpha"] == 128


@pytest.mark.parametrize(
    ("arguments", "what", "hint"),
    [
        (("plan", "--model", "Qwen-8Bx", "--gpu", "RTX 4090"), "unknown model 'Qwen-8Bx'", "did you mean"),
        (("plan", "--model", "Qwen-7B", "--gpu", "RTX 4091"), "RTX 4091", "RTX 4090"),
        (("plan", "--model", "Qwen-7B", "--gpu", "A100"), "ambiguous", ""),
        (("plan", "--model", "Qwen-7B", "--gpu", "T4", "--compute-dtype", "bf16"), "T4 has no bf16", "--compute-dtype fp16"),
        (("plan", "--method", "lorra"), "lorra", "ftadvise plan --help"),
        (("plan", "--rank", "0", "--model", "Qwen-7B", "--gpu", "RTX 4090"), "rank must be at least 1", ""),
        (("plan", "--stack", "trk"), "unknown stack", "trl"),
        (("plan", "--data", "missing.jsonl"), "missing.jsonl", ""),
        (("plann",), "no command 'plann'", "plan"),
        (("estimate", "--method", "full", "--quantization", "nf4", "--gpu", "A100-80GB"), "full fine-tuning", "QLoRA"),
        (("estimate", "--model", "Qwen2.5-7B", "--gpu", "A100-80GB", "--target-modules", "q_prj"), "q_prj", "q_proj"),
        (("run", "no-such-plan.yaml"), "no-such-plan.yaml", ""),
        (("report", "."), "no run", ""),
        (("explain", "gpu.mid_lo"), "unknown rule", "gpu.mid_low"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(ftadvise: Any, arguments: tuple[str, ...], what: str, hint: str) -> None:
    outcome = ftadvise(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    lines = outcome.err.strip().splitlines()
    assert lines[0].startswith("error: ")
    assert what in lines[0]
    assert hint in outcome.err
    assert "Traceback" not in outcome.err
    assert len(lines) <= 2


def test_a_bug_is_exit_code_1_and_no_traceback(ftadvise: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("boom\nsecond line")

    monkeypatch.setattr("ftadvise.api.plan", broken)
    monkeypatch.delenv("FTADVISE_TRACEBACK", raising=False)
    outcome = ftadvise("plan", "--model", "Qwen-7B", "--gpu", "RTX 4090")
    assert outcome.code == 1
    assert outcome.err.startswith("error: a bug in ftadvise: RuntimeError: boom second line")


def test_chinese_plan_has_chinese_reasons(ftadvise: Any) -> None:
    outcome = ftadvise("plan", "--model", "Qwen-7B", "--gpu", "RTX 3060 12GB", "--lang", "zh")
    assert "强烈推荐 QLoRA" in outcome.out
    assert "显存" in outcome.out
    assert "下一步" in outcome.err


def test_the_locale_chooses_the_language(ftadvise: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTADVISE_LANG", "zh_CN.UTF-8")
    assert "显存" in ftadvise("estimate", "--model", "Qwen-7B", "--gpu", "RTX 4090").out
    monkeypatch.setenv("FTADVISE_LANG", "de_DE.UTF-8")
    assert "Memory" in ftadvise("estimate", "--model", "Qwen-7B", "--gpu", "RTX 4090").out


@pytest.mark.parametrize("width", ["60", "80", "120"])
def test_output_stays_within_the_terminal(ftadvise: Any, monkeypatch: pytest.MonkeyPatch, width: str) -> None:
    monkeypatch.setenv("COLUMNS", width)
    outcome = ftadvise("plan", "--model", "Qwen-7B", "--gpu", "RTX 3060 12GB")
    assert max(len(line) for line in outcome.out.splitlines()) <= int(width)


def test_probe_doctor_and_catalogues_answer(ftadvise: Any) -> None:
    assert ftadvise("probe").code == 0
    assert json.loads(ftadvise("probe", "--json").out)["schema"] == "ftadvise.probe/1"
    assert "Python" in ftadvise("doctor").out
    assert "RTX 4090" in ftadvise("gpus", "4090").out
    assert "Qwen/Qwen-7B" in ftadvise("models", "Qwen-7B").out
    assert "gpu.mid_low" in ftadvise("rules").out
    assert "D0 §3.2" in ftadvise("explain", "gpu.mid_low").out


def test_piped_output_has_no_colour_and_survives_a_closed_pipe(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ftadvise", "plan", "--model", "Qwen-7B", "--gpu", "RTX 4090"]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "\x1b[" not in finished.stdout
    closed = subprocess.run(f"{sys.executable} -m ftadvise rules | head -1", shell=True, capture_output=True, text=True, check=False)  # noqa: S602
    assert closed.stdout.strip()
    assert "Traceback" not in closed.stderr
    assert "BrokenPipe" not in closed.stderr


def test_a_runs_hint_names_the_plan_file(ftadvise: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise InterruptedRunError("stopped after step 3 of 9", hint="continue with: ftadvise run PLAN --out here --resume")

    pytest.importorskip("torch")
    monkeypatch.setattr("ftadvise.runner.supervisor.run_plan", stopped)
    ftadvise("plan", "--gpu", "cpu", "-o", "mine.yaml")
    outcome = ftadvise("run", "mine.yaml")
    assert outcome.code == 130
    assert "ftadvise run mine.yaml --out here --resume" in outcome.err
