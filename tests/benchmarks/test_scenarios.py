"""A sample of the scenario matrix: what `benchmarks/scenarios.py` asks of every situation."""

from __future__ import annotations

import random

import pytest

from benchmarks import scenarios

EVERY = scenarios.situations()


def test_the_matrix_is_as_large_as_promised() -> None:
    gpus, models = {each.gpu for each in EVERY}, {each.model for each in EVERY}
    tasks, teams = {each.task for each in EVERY}, {each.team for each in EVERY}
    assert (len(gpus) >= 12, len(models) >= 20, len(tasks) >= 6, len(teams)) == (True, True, True, 2)
    assert len(EVERY) == len(gpus) * len(models) * len(tasks) * len(teams)


@pytest.mark.parametrize("number", range(24))
def test_what_is_recommended_fits_and_heeds_what_it_must(number: int) -> None:
    situation = random.Random(number).choice(EVERY)  # noqa: S311 - a sample
    assert scenarios.judge(situation).problems == (), situation.words


@pytest.mark.train
@pytest.mark.parametrize("model", ["Qwen2.5-0.5B", "Llama-3.2-1B"])
def test_the_real_model_code_fits_too(model: str) -> None:
    assert scenarios.traced_problem(scenarios.Situation(model, "RTX 3060 12GB", "chat", "experienced")) is None
