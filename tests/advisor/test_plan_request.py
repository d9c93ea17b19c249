"""Requests: unknown words are refused with the nearest known one."""

from __future__ import annotations

from typing import Any

import pytest

from ftadvise.advisor.plan_types import PlanRequest
from ftadvise.profiles.errors import InputError


@pytest.mark.parametrize(
    ("request_", "message", "hint"),
    [
        ({"task": "chta"}, "unknown task 'chta'", "chat"),
        ({"task": "zzz"}, "unknown task 'zzz'", "one of research"),
        ({"team": "begginer"}, "unknown team", "beginner"),
        ({"priority": "sped"}, "unknown priority", "speed"),
        ({"fixed": {"rnak": 3}}, "'rnak' is not a recipe field", "rank"),
        ({"max_hours": 0}, "max_hours must be more than 0", ""),
        ({"budget_usd": -1.0}, "budget must be more than 0", ""),
        ({"max_hours": float("nan")}, "max_hours must be more than 0", ""),
        ({"examples": 0}, "examples must be more than 0", ""),
        ({"fixed": {"method": "qlora", "quantization": "int8"}}, "QLoRA is LoRA on a 4-bit base", "--method lora"),
    ],
)
def test_wrong_requests_are_refused(request_: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        PlanRequest(**request_)
    assert hint in str(raised.value.hint)


def test_qlora_is_a_name_for_lora_on_nf4_with_double_quantisation() -> None:
    assert PlanRequest(fixed={"method": "qlora"}).fixed == {"method": "lora", "quantization": "nf4", "double_quantization": True}
    fp4 = PlanRequest(fixed={"method": "qlora", "quantization": "fp4", "double_quantization": False}).fixed
    assert fp4 == {"method": "lora", "quantization": "fp4", "double_quantization": False}
