"""Conditions: typed when they are read, safe when they are evaluated."""

from __future__ import annotations

import dataclasses

import pytest
from advisor_stand_ins import some_facts
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.advisor.condition import Condition
from ftadvise.advisor.facts import fact_types
from ftadvise.profiles.errors import InputError


def holds(text: str, **changes: object) -> bool:
    return Condition(text, fact_types()).matches(dataclasses.asdict(some_facts(**changes)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("has_gpu", True),
        ("not has_gpu or gpu_count > 1", False),
        ("gpu_memory_gib <= 16 and lora_fits", True),
        ("12 < gpu_memory_gib < 22", True),
        ("17 < gpu_memory_gib < 22", False),
        ("lora_headroom >= -0.1", True),
        ('"Test" in gpu_name', True),
        ('"A100" not in gpu_name', True),
        ('task in ("chat", "edge")', False),
        ("gpu_count in [1, 2]", True),
        ('task != "chat" and priority == "unspecified"', True),
    ],
)
def test_conditions_mean_what_they_say(text: str, expected: bool) -> None:
    assert holds(text) is expected


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("gpu_memory <= 12", "unknown fact 'gpu_memory'", "gpu_memory_gib"),
        ('gpu_memory_gib <= "12"', "is a text, where a number is needed", None),
        ("task < 3", "is a text, where a number is needed", None),
        ("has_gpu == 1", "is a number, where a bool is needed", None),
        ('task == "reserach"', "task is never 'reserach'", "research"),
        ('priority in ("speed", "acuracy")', "priority is never 'acuracy'", "accuracy"),
        ('"x" in gpu_memory_gib', "where a text is needed", None),
        ("gpu_memory_gib", "is not true or false", "compare"),
        ("lora_fits and gpu_count", "is a number, where a bool is needed", None),
        ("has_gpu is True", "`is` is not allowed", "=="),
        ("gpu_count ==", "is not a condition", None),
        ("", "is not a condition", None),
        ("x" * 2000, "at most 1000 characters", None),
        ("__import__('os').system('true')", "not allowed in a condition", None),
        ("().__class__ == 1", "not allowed in a condition", None),
        ("[x for x in (1,)] == 1", "not allowed in a condition", None),
        ("gpu_count + 1 > 2", "not allowed in a condition", None),
        ("2 ** 99999999 > 1", "not allowed in a condition", None),
        ("\0", "is not a condition", None),
    ],
)
def test_wrong_conditions_are_refused_when_read(text: str, message: str, hint: str | None) -> None:
    with pytest.raises(InputError) as raised:
        Condition(text, fact_types())
    assert message in str(raised.value)
    assert hint is None or hint in str(raised.value.hint)


@given(st.text(max_size=60))
def test_any_text_is_a_condition_or_an_input_error(text: str) -> None:
    try:
        condition = Condition(text, fact_types())
    except InputError:
        return
    assert condition.matches(dataclasses.asdict(some_facts())) in (True, False)


def test_the_stage_is_that_of_the_latest_fact() -> None:
    texts = ("has_gpu", 'has_gpu and approach == "lora"', 'rank > 8 and approach == "lora"', "1 < 2")
    assert [Condition(text, fact_types()).stage for text in texts] == [0, 1, 2, 0]
