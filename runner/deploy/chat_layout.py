"""A chat template, which is a program, as the pieces of text that it writes around what people say; found by asking it.

The template renders short conversations whose contents are markers. From where the markers come out:

    [system_before] S [system_after] user_before U [user_after] answer_before A [answer_after] user_before U ...

A template that writes anything else (dates, numbered turns, something different in the second turn) does not come out the same when the
pieces are put together again, and is not described.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_MARKS = {"system": "<<Sys1>>", "user": "<<Ask1>>", "assistant": "<<Say1>>", "again": "<<Ask2>>"}


@dataclass(frozen=True, slots=True)
class ChatLayout:
    """The texts around a turn. `default_system` is what the template says by itself when nobody gives a system message.

    `answer_before` (a space, after Mistral's [/INST]) stands before an answer that is given, not before one that is to be made.
    """

    system_before: str
    system_after: str
    user_before: str
    user_after: str
    answer_before: str
    answer_after: str
    default_system: str = ""
    takes_system: bool = True

    def render(self, turns: list[tuple[str, str]], *, system: str = "", open_answer: bool = True) -> str:
        """The conversation as these pieces write it: (user, answer) pairs, the last answer empty when it is to be given."""
        system = system or self.default_system
        text = f"{self.system_before}{system}{self.system_after}" if system and self.takes_system else ""
        for number, (user, answer) in enumerate(turns):
            last = number == len(turns) - 1
            text += f"{self.user_before}{user}{self.user_after}"
            text += "" if last and open_answer else f"{self.answer_before}{answer}{self.answer_after}"
        return text


PLAIN = ChatLayout("", "", "### Instruction:\n", "\n\n### Response:\n", "", "", takes_system=False)
"""What the runner writes for models without a chat template (runner/tokens.py)."""


def chat_layout(tokenizer: Any) -> ChatLayout | None:
    """The layout of the tokenizer's chat template, `PLAIN` without one, None when it is more than such pieces."""
    if not getattr(tokenizer, "chat_template", None):
        return PLAIN
    single, double = _rendered(tokenizer, ["user"]), _rendered(tokenizer, ["user", "assistant", "again"])
    closed = _rendered(tokenizer, ["user", "assistant"], opens=False)
    pieces, first, last = _split(double, ["user", "assistant", "again"]), _split(single, ["user"]), _split(closed, ["user", "assistant"])
    if pieces is None or first is None or last is None:
        return None
    head, asked, between, user_after = pieces
    answer_after = last[2]
    user_before = between.removeprefix(answer_after)
    if first != [head, user_after] or not asked.startswith(user_after):
        return None
    if not between.startswith(answer_after) or not head.endswith(user_before):
        return None
    around_turns = user_before, user_after, asked.removeprefix(user_after), answer_after
    layout = ChatLayout("", "", *around_turns, takes_system=False)
    said = head[: len(head) - len(user_before)]
    around = _split(_rendered(tokenizer, ["system", "user"]), ["system", "user"])
    if around is not None and around[1].endswith(user_before) and around[2] == user_after:
        system_after = around[1].removesuffix(user_before)
        default = ""
        if said:
            if not (said.startswith(around[0]) and said.endswith(system_after) and system_after):
                return None
            default = said[len(around[0]) : len(said) - len(system_after)]
        layout = ChatLayout(around[0], system_after, *around_turns, default)
    elif said:
        return None
    return layout if layout.render([(_MARKS["user"], _MARKS["assistant"]), (_MARKS["again"], "")]) == double else None


def _rendered(tokenizer: Any, roles: list[str], *, opens: bool = True) -> str | None:
    """The conversation as the template writes it, without the begin token (runtimes add that themselves); None when it refuses."""
    from jinja2.exceptions import TemplateError

    names = {"again": "user"}
    messages = [{"role": names.get(role, role), "content": _MARKS[role]} for role in roles]
    try:
        text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opens))
    except (TemplateError, TypeError, KeyError, ValueError):
        return None
    begin = getattr(tokenizer, "bos_token", None)
    begins = list(tokenizer("a", verbose=False)["input_ids"])[:1] == [tokenizer.bos_token_id]
    return text.removeprefix(begin) if begin and begins else text


def _split(text: str | None, roles: list[str]) -> list[str] | None:
    """The pieces between the marks, which must each occur once and in this order."""
    if text is None:
        return None
    pieces, rest = [], text
    for role in roles:
        before, mark, rest = rest.partition(_MARKS[role])
        if not mark or _MARKS[role] in rest:
            return None
        pieces.append(before)
    return [*pieces, rest]
