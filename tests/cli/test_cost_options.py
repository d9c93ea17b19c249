"""--price, --electricity, --max-hours, --budget on the command line; what is shown of time, money and energy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., str]
ON = ("--model", "SmolLM2-135M-Instruct", "--gpu", "A100-80GB")


@pytest.mark.parametrize("command", ["plan", "estimate"])
def test_time_money_and_energy_are_shown_with_what_the_price_rests_on(output: Command, command: str) -> None:
    listed = output(command, *ON, "--max-steps", "500")
    assert "Time  500 steps, " in listed
    assert " at $2.15/h, median of 15 list prices from $0.87 to $5.07, 3 of 2026-09-06; --price replaces it" in listed
    assert " kWh), of the GPU boards alone, derived" in listed
    chinese = output(command, *ON, "--max-steps", "500", "--lang", "zh")
    assert "每小时 $2.15（15 个标价的中位数，$0.87 至 $5.07，其中 3 个为 2026-09-06，可用 --price 替换）" in chinese
    given = output(command, *ON, "--max-steps", "500", "--price", "4")
    assert " at $4.00/h, as given" in given
    assert "for a million tokens (--data or --max-steps tell how many there are)" in output(command, *ON)


@pytest.mark.parametrize("command", ["plan", "estimate"])
def test_the_documents_have_the_cost(output: Command, command: str) -> None:
    def costs(*flags: str, gpu: str = "A100-80GB") -> dict[str, float]:
        fixed = ("--sharding", "ddp") if gpu.startswith("2") else ()
        arguments = ("--model", "SmolLM2-135M-Instruct", "--gpu", gpu, "--max-steps", "500", "--micro-batch", "1", *fixed)
        document = json.loads(output(command, *arguments, "--json", *flags))
        found: dict[str, float] = (document["recommended"]["estimate"] if command == "plan" else document)["cost"]
        return found

    one, dear = costs("--price", "2"), costs("--price", "4")
    assert dear["usd"] == pytest.approx(2 * one["usd"], rel=1e-3)
    assert one["usd"] == pytest.approx(2 * one["hours"], rel=1e-3)
    assert one["usd_low"] < one["usd"] < one["usd_high"]
    own = costs("--electricity", "0.5")
    assert own["usd"] == pytest.approx(0.5 * own["energy_kwh"], rel=1e-3)
    assert costs("--price", "0")["usd"] == 0
    two = costs("--price", "2", gpu="2x A100-80GB")
    assert two["usd"] == pytest.approx(4 * two["hours"], rel=1e-3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--price", "-1"), "--price must be 0 or more, not -1.0"),
        (("--price", "nan"), "--price must be 0 or more, not nan"),
        (("--electricity", "-0.1"), "--electricity must be 0 or more, not -0.1"),
        (("--max-hours", "0"), "max_hours must be more than 0, not 0.0"),
        (("--max-hours", "inf"), "max_hours must be more than 0, not inf"),
        (("--budget", "-5"), "budget must be more than 0, not -5.0"),
        (("--epochs", "0"), "max_steps must be >= 0 and epochs > 0"),
        (("--max-steps", "-3"), "max_steps must be >= 0 and epochs > 0"),
    ],
)
def test_bad_figures_are_one_line(output: Command, flags: tuple[str, str], message: str) -> None:
    errors = output("plan", *ON, *flags, code=2)
    assert errors.splitlines()[0].removeprefix("error: ") == message
    if flags[0] not in ("--max-hours", "--budget"):
        assert message in output("estimate", *ON, *flags, code=2)


@pytest.mark.parametrize("command", ["plan", "estimate"])
def test_data_without_examples_is_one_line(output: Command, command: str) -> None:
    Path("empty.jsonl").write_text("", encoding="utf-8")
    errors = output(command, *ON, "--data", "empty.jsonl", code=2).splitlines()
    assert "empty.jsonl" in errors[0]
    assert len(errors) <= 2


def test_a_budget_shortens_the_training_and_says_so(output: Command) -> None:
    shown = output("plan", *ON, "--budget", "0.05", "--max-steps", "100000")
    assert "of 100,000 steps" in shown
    assert "to stay within $0.05" in shown
    document = json.loads(output("plan", *ON, "--budget", "0.05", "--max-steps", "100000", "--json"))["recommended"]
    assert document["estimate"]["cost"]["usd"] == pytest.approx(0.05, rel=0.02)
    assert document["recipe"]["max_steps"] == document["duration"]["steps"] < 100000


def test_the_bottleneck_is_shown_in_both_languages(output: Command) -> None:
    shown = output("plan", "--model", "Qwen-7B", "--gpu", "RTX 3060 12GB")
    section = shown[shown.index("Bottleneck") :]
    assert "% of a step" in section
    assert "--no-gradient-checkpointing (nothing is computed twice):" in section
    chinese = output("plan", "--model", "Qwen-7B", "--gpu", "RTX 3060 12GB", "--lang", "zh")
    assert "若太慢" in chinese[chinese.index("瓶颈") :]
    document = json.loads(output("plan", "--model", "Qwen-7B", "--gpu", "RTX 3060 12GB", "--json"))
    assert set(document["recommended"]["bottleneck"]) == {"bound", "bound_zh", "faster", "faster_zh", "smaller", "smaller_zh"}
