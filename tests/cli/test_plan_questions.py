"""`ftadvise plan`: --gpu any, --min-seq-len, what more would cost, what would have to change; in both languages and any width."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

import ftadvise
from ftadvise import api
from ftadvise.advisor.plan_types import PlanRequest
from ftadvise.rendering.offers_view import offers_view
from ftadvise.rendering.plan_view import plan_view

Command = Callable[..., tuple[int, str, str]]
SMALL = ("--model", "SmolLM2-135M-Instruct")


@pytest.fixture
def command(ftadvise: Command) -> Command:
    """Run `ftadvise plan`: exit code, stdout, stderr."""
    return lambda *arguments: ftadvise("plan", *arguments)


def drawn(view: Any, width: int) -> list[str]:
    console = Console(file=StringIO(), width=width, no_color=True, highlight=False)
    console.print(view)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined,no-any-return]


def test_any_gpu_lists_time_and_money_and_writes_nothing(command: Command, tmp_path: Path) -> None:
    code, out, err = command(*SMALL, "--gpu", "any", "--examples", "1000", "--budget", "5")
    assert code == 0
    assert "GPUs can do it" in out
    assert "Time and cost of 1,000 examples of 1,024 tokens, 3 epochs." in out
    assert any(line.startswith("*") for line in out.splitlines())
    assert "next: ftadvise plan --model HuggingFaceTB/SmolLM2-135M-Instruct --gpu" in err
    assert list(tmp_path.iterdir()) == []
    document = json.loads(command(*SMALL, "--gpu", "any", "--examples", "1000", "--budget", "5", "--json")[1])
    usd = [offer["usd"] for offer in document["offers"] if offer["usd"] is not None and offer["within_limits"]]
    assert usd == sorted(usd)
    assert max(usd) <= 5


def test_no_gpu_at_all_ends_with_code_3(command: Command) -> None:
    code, out, err = command("--model", "Llama-2-70b-hf", "--gpu", "any", "--method", "full", "--json")
    assert code == 3
    assert json.loads(out)["offers"] == []
    assert "no single GPU can train" in err


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_tables_keep_the_width(width: int, lang: str) -> None:
    found = api.offers("SmolLM2-135M-Instruct", request=PlanRequest(examples=100, max_hours=1))
    lines = drawn(offers_view(found, lang), width)
    assert max(cell_len(line) for line in lines) <= width
    assert any("RTX 4090" in line for line in lines)
    plan = ftadvise.plan("Baichuan2-13B-Base", gpu="2x RTX 4090")
    assert max(cell_len(line) for line in drawn(plan_view(plan, lang), width)) <= width


def test_a_plan_says_what_more_would_cost_and_what_would_have_to_change(command: Command) -> None:
    _, out, _ = command("--model", "Baichuan2-13B-Base", "--gpu", "RTX 4090")
    assert "What more would cost" in out
    assert "2,048 tokens" in out
    assert "What LoRA would take" in out
    _, chinese, _ = command("--model", "Baichuan2-13B-Base", "--gpu", "RTX 4090", "--lang", "zh")
    assert "再多一些的代价" in chinese
    assert "采用 LoRA 需要的改变" in chinese


def test_a_minimum_length_is_kept_or_refused(command: Command) -> None:
    fixed = ("--model", "Llama-2-70b-hf", "--gpu", "2x RTX 4090", "--json")
    assert json.loads(command(*fixed, "--min-seq-len", "2048")[1])["recommended"]["recipe"]["seq_len"] >= 2048
    code, _, err = command(*SMALL, "--seq-len", "512", "--min-seq-len", "1024")
    assert (code, err.splitlines()[0]) == (2, "error: --seq-len 512 is shorter than --min-seq-len 1024")
    assert command(*SMALL, "--min-seq-len", "0")[0] == 2


def test_nothing_fits_tells_changes_as_data(command: Command) -> None:
    code, out, _ = command("--model", "Llama-2-70b-hf", "--gpu", "RTX 4090", "--json")
    assert code == 3
    changes = json.loads(out)["changes"]
    assert [change["kind"] for change in changes] == ["offload", "gpus", "gpu", "gpu"]
    assert all(change["change"] and change["change_zh"] and change["recipe"] for change in changes)
    assert changes[1]["gpus"] == 4
    assert changes[2]["usd_per_hour"] > 0


def test_a_plan_over_several_gpus_is_written_with_its_layout(command: Command, tmp_path: Path) -> None:
    assert command("--model", "Llama-2-70b-hf", "--gpu", "4x RTX 4090")[0] == 0
    assert "sharding: zero3" in (tmp_path / "ftadvise-plan.yaml").read_text(encoding="utf-8")
