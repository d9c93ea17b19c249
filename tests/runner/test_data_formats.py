"""Each format of rows: recognised by its columns, or named; what becomes of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftadvise.estimator.data_settings import DataSettings
from ftadvise.profiles.errors import InputError
from ftadvise.runner.data import Row, RowSet, load_rows
from ftadvise.runner.data.formats import FORMATS

Load = Callable[..., RowSet]
HI = (("user", "Hi"), ("assistant", "Hello"))


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """`load(*rows, **settings)`: the rows of a JSONL file."""

    def rows_of(*rows: object, **settings: Any) -> RowSet:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return load_rows(DataSettings(str(path), **settings))

    return rows_of


def _chat(*turns: tuple[str, str], unlearned: tuple[int, ...] = ()) -> Row:
    return Row("messages", turns=turns, unlearned=unlearned)


def _said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


ASKED, ANSWERED = _said("user", "Hi"), _said("assistant", "Hello")
EARLIER = [_said("user", "a"), _said("assistant", "b")]
EXAMPLES: tuple[tuple[str, dict[str, Any], Row], ...] = (
    ("alpaca", {"instruction": "Add", "input": "1 2", "output": "3"}, Row("instruction", "Add\n\n1 2", "3")),
    ("alpaca", {"instruction": "Add", "input": None, "output": "3", "id": 7}, Row("instruction", "Add", "3")),
    ("alpaca", {"instruction": "Add", "context": "1 2", "response": "3", "category": "qa"}, Row("instruction", "Add\n\n1 2", "3")),
    (
        "alpaca",
        {"instruction": "Hi", "output": "Hello", "history": [["a", "b"]]},
        _chat(("user", "a"), ("assistant", "b"), *HI),
    ),
    ("alpaca", {"instruction": "Hi", "output": "Hello", "system": "s"}, _chat(("system", "s"), *HI)),
    ("sharegpt", {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, _chat(*HI)),
    (
        "sharegpt",
        {"conversation": [_said("User", "Hi"), {"role": "bot", "text": "Hello"}], "system": "s"},
        _chat(("system", "s"), *HI),
    ),
    ("messages", {"messages": [ASKED, ANSWERED], "prompt": "Hi"}, _chat(*HI)),
    ("messages", {"messages": [_said("developer", [{"type": "text", "text": "s"}]), ASKED, ANSWERED]}, _chat(("system", "s"), *HI)),
    (
        "messages",
        {"messages": [_said("user", "a"), _said("assistant", "b", weight=0), ASKED, ANSWERED | {"weight": 1}]},
        _chat(("user", "a"), ("assistant", "b"), *HI, unlearned=(1,)),
    ),
    (
        "messages",
        {"messages": [ASKED, _said("assistant", "4", reasoning_content="easy")]},
        _chat(("user", "Hi"), ("assistant", "<think>\neasy\n</think>\n\n4")),
    ),
    ("dialogue", {"id": "0", "data": ["Hi", "Hello", "Bye", ""]}, _chat(*HI, ("user", "Bye"), ("assistant", ""), unlearned=(3,))),
    ("prompt-completion", {"prompt": "Hi", "completion": "Hello"}, Row("instruction", "Hi", "Hello")),
    ("prompt-completion", {"id": "x", "system_prompt": "", "question": "Hi", "response": "Hello"}, Row("instruction", "Hi", "Hello")),
    ("prompt-completion", {"system_prompt": "s", "question": "Hi", "response": "Hello"}, _chat(("system", "s"), *HI)),
    (
        "prompt-completion",
        {"prompt": [*EARLIER, ASKED], "completion": [ANSWERED]},
        _chat(("user", "a"), ("assistant", "b"), *HI, unlearned=(1,)),
    ),
    ("text", {"text": "once upon", "meta": {"url": "x"}}, Row("text", text="once upon")),
)


@pytest.mark.parametrize(("name", "row", "expected"), EXAMPLES, ids=[f"{name}-{at}" for at, (name, *_) in enumerate(EXAMPLES)])
def test_a_format_is_recognised_and_can_be_named(load: Load, name: str, row: dict[str, Any], expected: Row) -> None:
    found = load(row)
    assert [file.format for file in found.files] == [name]
    assert found.rows == load(row, format=name).rows == (expected,)
    assert set(found.files[0].why.split(", ")) <= set(row)


def test_every_format_has_an_example() -> None:
    tried = {name for name, *_ in EXAMPLES} | {"classification", "chosen"}
    assert tried == {each.name for each in FORMATS}


def test_lists_stand_as_json_in_a_csv_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["messages"], [json.dumps([{"role": role, "content": text} for role, text in HI])]])
    assert load_rows(DataSettings(str(path))).rows == (_chat(*HI),)


def test_columns_of_other_names(load: Load) -> None:
    row = {"Frage": "Hi", "Antwort": "Hello", "text": "both"}
    assert load(row).rows == (Row("text", text="both"),)
    columns = (("instruction", "Frage"), ("output", "Antwort"))
    assert load(row, columns=columns).rows == (Row("instruction", "Hi", "Hello"),)
    with pytest.raises(InputError, match="line 1: there is no column 'Frege'") as caught:
        load(row, columns=(("instruction", "Frege"), ("output", "Antwort")))
    assert caught.value.hint == "did you mean Frage?"
    with pytest.raises(InputError, match="'instuction' is no role of a row") as caught:
        load(row, columns=(("instuction", "Frage"),))
    assert caught.value.hint == "did you mean instruction?"
    with pytest.raises(InputError, match="no format has all of instruction, label"):
        load(row, columns=(("instruction", "Frage"), ("label", "Antwort")))
    with pytest.raises(InputError, match="'alpacca' is no data format") as caught:
        load(row, format="alpacca")
    assert caught.value.hint == "did you mean alpaca?"


def test_preference_data_is_learned_only_when_asked_for(load: Load) -> None:
    asked = [{"role": "user", "content": "Hi"}]
    answer, worse = ([{"role": "assistant", "content": each}] for each in ("Hello", "Go away"))
    for row in (
        {"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"},
        {"prompt": asked, "chosen": answer, "rejected": worse},
        {"prompt": asked, "chosen": asked + answer, "rejected": asked + worse},
        {"chosen": asked + answer, "rejected": asked + worse},
    ):
        with pytest.raises(InputError, match="preference data") as caught:
            load(row)
        assert "--format chosen" in (caught.value.hint or "")
        assert load(row, format="chosen").rows[0].dialogue == HI


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]}, "tool calls cannot be learned yet"),
        ({"messages": [{"role": "user", "content": "x"}], "tools": [{"name": "f"}]}, "tools cannot be learned yet"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "only text can be learned, not image_url"),
        ({"messages": [{"role": "gtp", "content": "x"}]}, "needs a role .*, not 'gtp'"),
        ({"messages": ["Hi"]}, "messages 1: each message needs a role and content, this is str"),
        ({"instruction": "a", "output": "b", "history": [["only a question"]]}, "history 1: a question and its answer"),
        ({"text": "a", "label": 0.5}, "label must be a class"),
    ],
)
def test_what_cannot_be_learned_is_said(load: Load, row: dict[str, Any], wanted: str) -> None:
    with pytest.raises(InputError, match=f"line 1: .*{wanted}"):
        load(row)


@pytest.mark.parametrize(
    ("row", "body"),
    [
        ({"sentence": "fun", "label": 1, "idx": 0}, "fun"),
        ({"text": "fun", "label": 1.0}, "fun"),
        ({"sentence1": "a", "sentence2": "b", "label": 1}, "Text 1: a\n\nText 2: b"),
        ({"premise": "a", "hypothesis": "b", "label": "1"}, "Text 1: a\n\nText 2: b"),
        ({"question1": "a", "question2": "b", "label": 1}, "Text 1: a\n\nText 2: b"),
    ],
)
def test_a_classification_asks_for_the_class(load: Load, row: dict[str, Any], body: str) -> None:
    found = load(row, row | {"label": 0}, row | {"label": -1}, labels=("bad", "good"))
    assert found.labels == ("bad", "good")
    assert [(each.label, each.text) for each in found.rows] == [("good", "good"), ("bad", "bad")]
    assert found.rows[0].prompt == f"Classify the text. Answer with one of: bad, good.\n\n{body}"
    assert found.summary()["problems"] == {"empty": 1}
    assert load(row, row | {"label": 0}).labels == ("0", "1"), "numbers stay numbers where nobody names them"


def test_names_of_classes_must_suffice(load: Load) -> None:
    with pytest.raises(InputError, match="line 1: the label '2' is none of bad, good"):
        load({"text": "x", "label": 2}, labels=("bad", "good"))
    assert load({"text": "x", "label": "good"}, labels=("bad", "good")).labels == ("good",)


def test_many_classes_are_not_listed_in_each_question(load: Load) -> None:
    found = load(*[{"text": "x", "label": f"class {number}"} for number in range(31)])
    assert len(found.labels) == 31
    assert "class 7" not in (found.rows[0].prompt or "")
