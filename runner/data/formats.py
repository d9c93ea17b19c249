"""The formats that rows come in: which columns tell each of them, and how a row of it becomes one of ours.

A format is a line of `FORMATS`. The first whose required columns a row has is that row's format, so what is more telling stands earlier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ftadvise.profiles.errors import InputError, did_you_mean
from ftadvise.runner.data.messages import conversation, is_list, list_of, messages_of, text_of
from ftadvise.runner.data.rows import Row

Values = Mapping[str, Any]
"""What a row has for each role."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or value is None


def _is_label(value: Any) -> bool:
    return isinstance(value, (str, int, float)) or value is None


def _is_text_or_list(value: Any) -> bool:
    return _is_text(value) or isinstance(value, list)


def _is_dialogue(value: Any) -> bool:
    """A list whose elements are texts in turn, or that one cannot look into yet."""
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


@dataclass(frozen=True, slots=True)
class Role:
    """One thing a format needs, or may have, and the columns it is usually found in. `fits` says whether a value can be it at all."""

    name: str
    columns: tuple[str, ...]
    required: bool = True
    fits: Callable[[Any], bool] = _is_text


@dataclass(frozen=True, slots=True)
class Format:
    """Args:
    build: the row, or None when there is nothing to learn in it.
    automatic: whether it is ever recognised without being named.
    """

    name: str
    roles: tuple[Role, ...]
    build: Callable[[Values], Row | None]
    automatic: bool = field(default=True)

    def columns_of(self, row: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str] | None:
        """Role -> column of this row, or None when it is not a row of this format. `given` columns are taken instead of the usual."""
        found = {}
        for role in self.roles:
            names = (given[role.name],) if role.name in given else role.columns
            column = next((name for name in names if name in row and role.fits(row[name])), None)
            if column is not None:
                found[role.name] = column
            elif role.required or role.name in given:
                return None
        return found


def _with_system(values: Values, turns: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    system = text_of("system", values.get("system"))
    return [("system", system), *turns] if system.strip() else list(turns)


def _instruction(values: Values) -> Row | None:
    question, context = text_of("instruction", values["instruction"]), text_of("input", values.get("input"))
    answer = text_of("output", values["output"])
    prompt = question + (f"\n\n{context}" if context.strip() else "")
    if not answer.strip():
        return None
    earlier = []
    for number, pair in enumerate(list_of("history", values.get("history") or []), 1):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise InputError(f"history {number}: a question and its answer are expected")
        earlier += [("user", text_of("history", pair[0])), ("assistant", text_of("history", pair[1]))]
    turns = _with_system(values, earlier)
    return conversation([*turns, ("user", prompt), ("assistant", answer)]) if turns else Row("instruction", prompt, answer)


def _question(values: Values) -> Row | None:
    prompt, answer = values["prompt"], values["completion"]
    if isinstance(prompt, list) or isinstance(answer, list):
        return _continued(values, prompt, answer)
    question, reply = text_of("prompt", prompt), text_of("completion", answer)
    if not reply.strip():
        return None
    turns = _with_system(values, [])
    return conversation([*turns, ("user", question), ("assistant", reply)]) if turns else Row("instruction", question, reply)


def _continued(values: Values, prompt: Any, answer: Any) -> Row | None:
    """Both as messages: what the prompt has of the assistant is not learned."""
    before, _ = messages_of("prompt", [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)
    after, skipped = messages_of("completion", [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer)
    turns = _with_system(values, before)
    unlearned = [at for at, (role, _) in enumerate(turns) if role == "assistant"]
    return conversation([*turns, *after], [*unlearned, *(len(turns) + at for at in skipped)])


def _chosen(values: Values) -> Row | None:
    """The chosen answer of preference data; without a prompt it is the whole conversation, of which all answers are learned."""
    if values.get("prompt") is None:
        turns, skipped = messages_of("chosen", values["chosen"])
        return conversation(_with_system(values, turns), skipped)
    prompt, chosen = values["prompt"], values["chosen"]
    question = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if isinstance(chosen, list) and chosen[: len(question)] == question:  # many repeat the prompt in the answer
        chosen = chosen[len(question) :]
    return _question({"prompt": prompt, "completion": chosen, "system": values.get("system")})


def _messages(values: Values) -> Row | None:
    if values.get("tools"):
        raise InputError("tools cannot be learned yet", hint="--skip-broken leaves such rows out")
    turns, unlearned = messages_of("messages", values["messages"])
    added = _with_system(values, turns)
    return conversation(added, [at + len(added) - len(turns) for at in unlearned])


def _dialogue(values: Values) -> Row | None:
    """Texts in turn, the user's first (UltraChat)."""
    texts = [text_of("dialogue", each) for each in list_of("dialogue", values["dialogue"])]
    return conversation(_with_system(values, [("assistant" if at % 2 else "user", each) for at, each in enumerate(texts)]))


def _classified(values: Values) -> Row | None:
    label = values["label"]
    if isinstance(label, float) and not label.is_integer():
        raise InputError(f"label must be a class, not {label!r}", hint="name what is to be learned: --columns instruction=...,output=...")
    if label is None or label in (-1, "", "-1"):
        return None
    first, second = text_of("text", values["text"]), text_of("text_pair", values.get("text_pair"))
    name = str(int(label) if isinstance(label, (bool, float)) else label).strip()
    return Row("instruction", f"Text 1: {first}\n\nText 2: {second}" if second.strip() else first, name, label=name)


def _text(values: Values) -> Row | None:
    text = text_of("text", values["text"])
    return Row("text", text=text) if text.strip() else None


_SYSTEM = Role("system", ("system", "system_prompt"), required=False)
_TOOLS = Role("tools", ("tools",), required=False, fits=lambda _value: True)
FORMATS: tuple[Format, ...] = (
    Format("messages", (Role("messages", ("messages",), fits=is_list), _SYSTEM, _TOOLS), _messages),
    Format("sharegpt", (Role("messages", ("conversations", "conversation"), fits=is_list), _SYSTEM, _TOOLS), _messages),
    Format(
        "alpaca",
        (
            Role("instruction", ("instruction",)),
            Role("output", ("output", "response")),
            Role("input", ("input", "context"), required=False),
            Role("history", ("history",), required=False, fits=lambda value: value is None or is_list(value)),
            _SYSTEM,
        ),
        _instruction,
    ),
    Format(
        "prompt-completion",
        (
            Role("prompt", ("prompt", "question", "query"), fits=_is_text_or_list),
            Role("completion", ("completion", "response", "answer"), fits=_is_text_or_list),
            _SYSTEM,
        ),
        _question,
    ),
    Format("dialogue", (Role("dialogue", ("data", "dialogue", "dialog"), fits=_is_dialogue), _SYSTEM), _dialogue),
    Format(
        "classification",
        (
            Role("text", ("sentence", "text", "sentence1", "premise", "question1")),
            Role("text_pair", ("sentence2", "hypothesis", "question2", "question"), required=False),
            Role("label", ("label", "sentiment"), fits=_is_label),
        ),
        _classified,
    ),
    Format("text", (Role("text", ("text", "content")),), _text),
    Format(
        "chosen",
        (
            Role("chosen", ("chosen",), fits=_is_text_or_list),
            Role("prompt", ("prompt", "question"), required=False, fits=_is_text_or_list),
            _SYSTEM,
        ),
        _chosen,
        automatic=False,
    ),
)
BY_NAME = {each.name: each for each in FORMATS}
FORMAT_NAMES = tuple(BY_NAME)
NEEDED = "a row needs instruction and output (input is optional), messages, conversations, prompt and completion, text and label, or text"
_ROLE_NAMES = tuple(dict.fromkeys(role.name for each in FORMATS for role in each.roles))


def formats_for(name: str | None, columns: Mapping[str, str]) -> tuple[Format, ...]:
    """The formats that a row may have: the named one, else those that know every role that was given a column.

    Raises:
        InputError: an unknown format or role, or no format that has all of these roles.
    """
    unknown = next((role for role in columns if role not in _ROLE_NAMES), None)
    if unknown is not None:
        raise InputError(
            f"columns: {unknown!r} is no role of a row", hint=did_you_mean(unknown, _ROLE_NAMES) or f"one of {', '.join(_ROLE_NAMES)}"
        )
    if name is not None and name not in BY_NAME:
        raise InputError(f"{name!r} is no data format", hint=did_you_mean(name, FORMAT_NAMES) or f"one of {', '.join(FORMAT_NAMES)}")
    candidates = (BY_NAME[name],) if name else tuple(each for each in FORMATS if each.automatic)
    fitting = tuple(each for each in candidates if set(columns) <= {role.name for role in each.roles})
    if not fitting:
        raise InputError(f"columns: no format has all of {', '.join(columns)}", hint=f"formats: {', '.join(FORMAT_NAMES)}")
    return fitting


def missing_columns(row: Mapping[str, Any], candidates: Sequence[Format], given: Mapping[str, str]) -> InputError:
    """Why a row is of none of the formats."""
    names = [str(name)[:40] for name in row][:8]
    absent = next((column for column in given.values() if column not in row), None)
    if absent is not None:
        return InputError(f"there is no column {absent!r}, found {', '.join(names) or 'none'}", hint=did_you_mean(absent, map(str, row)))
    wrong = next((w for each in candidates if (w := _misfit(row, each, given))), None)
    if wrong is not None:
        return InputError(wrong)
    if "chosen" in row and not any(each.name == "chosen" for each in candidates):
        return InputError("preference data (chosen and rejected answers)", hint="--format chosen learns the chosen answers")
    known = [column for each in candidates for role in each.roles for column in role.columns]
    near = next((hint for name in names if name not in known and (hint := did_you_mean(name, known))), None)
    return InputError(f"columns are missing, found {', '.join(names) or 'none'}", hint=near or NEEDED)


def _misfit(row: Mapping[str, Any], each: Format, given: Mapping[str, str]) -> str | None:
    """The column with a value of the wrong kind, where all required columns of the format are there."""
    wrong = None
    for role in each.roles:
        names = (given[role.name],) if role.name in given else role.columns
        column = next((name for name in names if name in row), None)
        if column is None and role.required:
            return None
        if column is not None and not role.fits(row[column]) and wrong is None:
            expected = "a list" if role.fits is is_list or role.fits is _is_dialogue else "text"
            wrong = f"{column} must be {expected}, not {type(row[column]).__name__}"
    return wrong
