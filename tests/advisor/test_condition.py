"""Conditions: typed when they are read, safe when they are evaluated."""

from __future__ import annotations

import ast
import dataclasses

import pytest
from advisor_stand_ins import some_facts
from hypothesis import given
from hypothesis import strategies as st

from ftadvise.advisor.condition import Condition
from ftadvise.advisor.facts import fact_types
from ftadvise.advisor.rule_set import load_rules
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


DEEP = ["(" * 480 + "has_gpu" + ")" * 480, "not " * 240 + "has_gpu", "-" * 900 + "1 < 2", "has_gpu and (" * 70 + "has_gpu" + ")" * 70]
ATTACKS = [
    *DEEP,
    "__import__('os').system('true') == 0",
    "open('/etc/passwd').read() == ''",
    "eval('1') == 1",
    "print",
    "gpu_name.__class__.__mro__[1].__subclasses__() == 1",
    "gpu_name.upper() == 'A'",
    "gpu_name[0] == 'A'",
    "gpu_name * 999999999 == 'A'",
    "'x' * 999999999 == gpu_name",
    "9 ** 9 ** 9 ** 9 > gpu_count",
    "1 << 999999999 > gpu_count",
    "gpu_count + 1 > 2",
    "10 ** 9999 < 1 or has_gpu",
    "[x for x in (1, 2)] == 1",
    "(lambda: 1)() == 1",
    "(has_gpu := True)",
    "has_gpu if has_gpu else 1",
    "f'{open(1)}' == 'a'",
    "f'{gpu_count:>999999999}' == 'a'",
    "gpu_name % 'a' == 'b'",
    "{1: 2} == 1",
    "{1, 2} == 1",
    "gpu_count in {1, 2}",
    "gpu_count in (*(1, 2),)",
    "b'a' == gpu_name",
    "1j == gpu_count",
    "... == gpu_count",
    "None == gpu_name",
    "gpu_count in (1, (2, 3))",
    "await has_gpu",
    "yield",
    "import os",
    "has_gpu; has_gpu",
    "has_gpu\n[].append(1)",
    "gpu_name == 'a' 'b' ()",
    "gpu_name == '\\d'",
    "__builtins__ == 1",
    "has_gpu.real",
    "1" * 999 + " < 2",
    "'" + "x" * 999 + "' == gpu_name",
    "gpu_count > 1" + " or gpu_count > 1" * 60,
    "\ud800 == gpu_name",
    "\x00",
]


@pytest.mark.parametrize("text", ATTACKS, ids=range(len(ATTACKS)))
def test_a_malicious_condition_is_refused_before_anything_is_evaluated(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused has no evaluator to escape from; the limits on length and depth hold before the parser or the check could recurse."""
    monkeypatch.setattr("simpleeval.SimpleEval.eval", lambda *_, **__: pytest.fail("evaluated"))
    with pytest.raises(InputError):
        Condition(text, fact_types())


def test_what_is_accepted_can_only_compare() -> None:
    """The node types of all packaged rules' conditions and a few more are of a closed list: nothing calls, nothing grows."""
    allowed = {
        "Name", "Load", "Constant", "BoolOp", "And", "Or", "UnaryOp", "Not", "USub", "Compare", "Tuple", "List",
        "Eq", "NotEq", "Lt", "LtE", "Gt", "GtE", "In", "NotIn",
    }  # fmt: skip
    texts = [rule.when.text for rule in load_rules()] + ["-1 < gpu_count <= 3", "gpu_count in [1, 2]", "'A' not in gpu_name", "False"]
    for text in texts:
        Condition(text, fact_types())
        assert {type(node).__name__ for node in ast.walk(ast.parse(text, mode="eval").body)} <= allowed


@given(
    st.recursive(
        st.sampled_from(["has_gpu", "gpu_count", "'a'", "1", "gpu_name", "(1, 2)", "x"]),
        lambda inner: (
            st.builds("{1} {0} {2}".format, st.sampled_from(["and", "or", "in", "==", "<", "+", "**", "is", "if"]), inner, inner)
            | st.builds("{0}({1})".format, st.sampled_from(["not ", "-", "", "open", "gpu_name.format"]), inner)
        ),
        max_leaves=20,
    )
)
def test_whatever_is_written_is_refused_or_true_or_false(text: str) -> None:
    try:
        condition = Condition(text, fact_types())
    except InputError:
        return
    assert condition.matches(dataclasses.asdict(some_facts())) in (True, False)


@given(st.text(max_size=60))
def test_any_text_is_a_condition_or_an_input_error(text: str) -> None:
    try:
        condition = Condition(text, fact_types())
    except InputError:
        return
    assert condition.matches(dataclasses.asdict(some_facts())) in (True, False)


def test_the_stage_is_that_of_the_latest_fact() -> None:
    texts = ("has_gpu", 'has_gpu and approach == "lora"', 'rank > 8 and approach == "lora"', "rank > 8 and launch_share > 0.1", "1 < 2")
    assert [Condition(text, fact_types()).stage for text in texts] == [0, 1, 2, 3, 0]
