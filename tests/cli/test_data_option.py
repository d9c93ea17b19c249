"""`--data`: the data's lengths choose the sequence length and decide the time, and the answer says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ftadvise
from ftadvise.advisor.plan_types import PlanRequest
from ftadvise.estimator.lengths import LengthStats

MODEL = ("--model", "Qwen-7B", "--gpu", "RTX 4090")
Command = Callable[..., str]


def _data(name: str, *characters: int) -> str:
    """A data file with text examples of so many ASCII characters: 0.3 tokens each, and 5."""
    Path(name).write_text("".join(json.dumps({"text": "a" * count}) + "\n" for count in characters), encoding="utf-8")
    return name


def _answer(command: str, document: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = document if command == "estimate" else document["recommended"]["estimate"]
    return answer


@pytest.mark.parametrize("command", ["plan", "estimate"])
def test_the_longest_example_is_the_sequence_length(output: Command, command: str) -> None:
    data = _data("short.jsonl", *[1000] * 40, 3000)
    document = json.loads(output(command, *MODEL, "--data", data, "--json"))
    assert document["data"]["examples"] == 41
    assert (document["data"]["shortest"], document["data"]["longest"], document["data"]["truncated"]) == (305, 905, 0)
    assert document["data"]["measured"] is False
    answer = _answer(command, document)
    assert answer["recipe"]["seq_len"] == 960
    by_hand = json.loads(output("estimate", *MODEL, *_flags(answer["recipe"]), "--json"))
    assert answer["memory"] == by_hand["memory"]
    assert answer["throughput"]["seconds_per_step"] < by_hand["throughput"]["seconds_per_step"]


def _flags(recipe: dict[str, Any]) -> list[str]:
    names = ("method", "quantization", "rank", "micro_batch", "gradient_accumulation", "seq_len", "adapter_dtype", "optimizer", "attention")
    flags = [part for name in names for part in (f"--{name.replace('_', '-')}", str(recipe[name]))]
    return [*flags, "--gradient-checkpointing" if recipe["gradient_checkpointing"] else "--no-gradient-checkpointing"]


@pytest.mark.parametrize("command", ["plan", "estimate"])
def test_what_is_longer_than_the_default_is_cut_and_counted(output: Command, command: str) -> None:
    data = _data("long.jsonl", 100, 100, 9000)
    document = json.loads(output(command, *MODEL, "--data", data, "--json"))
    assert _answer(command, document)["recipe"]["seq_len"] == 1024
    assert document["data"]["truncated"] == 1
    assert "3 examples, 35 to 2,705 tokens, mean 925, estimated from the text" in output(command, *MODEL, "--data", data)
    assert "1 longer than 1,024 will be cut" in output(command, *MODEL, "--data", data)
    chinese = output(command, *MODEL, "--data", data, "--lang", "zh")
    assert "数据  3 个样本，35 至 2,705 个 token，平均 925，根据文本估算" in chinese
    assert "1 个超过 1,024，将被截断" in chinese


def test_a_sequence_length_that_was_given_stays(output: Command) -> None:
    data = _data("some.jsonl", 100, 600)
    for command in ("plan", "estimate"):
        document = json.loads(output(command, *MODEL, "--data", data, "--seq-len", "100", "--json"))
        assert _answer(command, document)["recipe"]["seq_len"] == 100
        assert document["data"]["truncated"] == 1


def test_the_time_is_that_of_the_average_batch(output: Command) -> None:
    even, uneven = _data("even.jsonl", *[600] * 64), _data("uneven.jsonl", *[100] * 63, 600)
    fixed = (*MODEL, "--micro-batch", "4", "--json")
    hours = [json.loads(output("plan", *fixed, "--data", data))["recommended"]["duration"]["hours"] for data in (even, uneven)]
    assert hours[1] < 0.6 * hours[0]
    document = json.loads(output("plan", *fixed, "--data", uneven))
    assert document["data"]["mean_batch_length"] == pytest.approx(35 + (185 - 35) * 4 / 64, abs=0.1)
    assert "batches of 4 are padded to 44 on average" in output("plan", *MODEL, "--micro-batch", "4", "--data", uneven)


def test_without_data_the_documents_have_no_data(output: Command) -> None:
    assert "data" not in json.loads(output("plan", *MODEL, "--json"))
    assert "data" not in json.loads(output("estimate", *MODEL, "--json"))
    assert "lengths" not in json.loads(output("plan", *MODEL, "--json"))["request"]


@pytest.mark.parametrize("command", ["plan", "estimate"])
def test_a_broken_data_file_is_one_line(output: Command, command: str) -> None:
    Path("broken.jsonl").write_text('{"text": "a"}\n{"text": \n', encoding="utf-8")
    assert "broken.jsonl, line 2: broken JSON" in output(command, *MODEL, "--data", "broken.jsonl", code=2)
    assert "no such data file" in output(command, *MODEL, "--data", "missing.jsonl", code=2)


def test_packing_takes_fewer_steps_of_full_length() -> None:
    lengths = LengthStats.of([100] * 640, measured=True)
    fixed = {"seq_len": 1000, "micro_batch": 1, "gradient_accumulation": 8, "epochs": 1.0}
    plans = [
        ftadvise.plan("Qwen-7B", gpu="RTX 4090", request=PlanRequest(fixed={**fixed, "packing": packing}, lengths=lengths))
        for packing in (False, True)
    ]
    assert [plan.cost.steps for plan in plans if plan.cost] == [80, 8]


def test_longer_sequences_are_no_alternative_for_shorter_data() -> None:
    def longer(lengths: LengthStats | None) -> bool:
        plan = ftadvise.plan("Qwen-7B", gpu="A100-80GB", request=PlanRequest(lengths=lengths))
        return any(each.field in ("seq_len", "longest") for each in plan.sensitivity)

    assert longer(None)
    assert longer(LengthStats.of([100, 5000], measured=True))
    assert not longer(LengthStats.of([100, 500], measured=True))
