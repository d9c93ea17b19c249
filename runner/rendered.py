"""A row as the text that the model reads, and which characters of it are learned.

Of a conversation the answers are learned, each with the mark that ends it; everything else is only read. Where an answer stands in the text
is what the chat template says ({% generation %}), or it is found by difference: the conversation is rendered once more with this one answer
replaced by a character that occurs nowhere else. What both texts have in common before and behind it is not the answer. That holds for
templates that strip an answer, take it apart or rewrite earlier turns (Qwen3 drops their thoughts), because both texts are of the whole
conversation; comparing with a shortened one, as is often done, fails for these.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ftadvise.profiles.errors import InputError
from ftadvise.runner.chat_template import Span, compiled, default_template, has_marks
from ftadvise.runner.data.rows import Row, Turn

_ANY_MARK = r"<[|｜][^<>\s]{1,64}[|｜]>"
"""How control tokens are usually written, for tokenizers that do not list theirs."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """Args:
    special: whether the tokenizer adds its own begin token (a chat template writes its own).
    learned: the characters to learn; None for all.
    """

    text: str
    special: bool
    learned: tuple[Span, ...] | None


class Layout:
    """How one tokenizer with one chat template writes rows. The tokenizer must have a template (see `use_template`)."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._end = tokenizer, tokenizer.eos_token or ""
        template = default_template(tokenizer)
        self._marks = compiled(template) if template is not None and has_marks(template) else None
        self._opening, self._closing, self._end_mark = self._find_opening(), self._find_closing(), self._find_end_mark()

    def text(self, row: Row, *, where: str) -> tuple[str, bool]:
        """The whole example as the model reads it, and whether the tokenizer adds its own begin token.

        Raises:
            InputError: the chat template refuses the row; names `where`.
        """
        if row.shape == "text":
            return f"{row.text}{self._end}", True
        turns = row.dialogue
        return self.conversation(turns, where=where) + (self._closing if turns[-1][0] == "assistant" else ""), False

    def row(self, row: Row, *, where: str) -> Rendered:
        """The same with what of it is learned: the answers.

        Raises:
            InputError: the chat template refuses the row; names `where`.
        """
        whole, special = self.text(row, where=where)
        if row.shape == "text":
            return Rendered(whole, special, None)
        turns = row.dialogue
        closing = len(self._closing) if turns[-1][0] == "assistant" else 0
        text = whole[: len(whole) - closing]
        answers = [at for at, (role, _) in enumerate(turns) if role == "assistant" and at not in row.unlearned]
        spans = self._marked(turns, answers, text)
        if spans is None:
            spans = [span for at in answers if (span := self._difference(turns, at, text, where)) is not None]
        if closing and spans and answers[-1] == len(turns) - 1 and not text[spans[-1][1] :].strip():
            spans[-1] = (spans[-1][0], len(whole))
        return Rendered(whole, special, tuple(spans))

    def conversation(self, turns: Sequence[Turn], *, where: str, open_answer: bool = False) -> str:
        """The conversation in the model's own layout; `open_answer`: up to where the model begins to answer.

        Raises:
            InputError: the chat template refuses it; names `where`.
        """
        try:
            return self._applied(turns, open_answer=open_answer)
        except Exception as error:  # noqa: BLE001 - a template is foreign code
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            raise InputError(
                f"{where}: the model's chat template refuses it: {reason}",
                hint="this template knows no system messages: leave them out of the data, or choose another with --template"
                if turns[0][0] == "system" and self._accepts(turns[1:])
                else "check the order of the roles, or choose another template with --template",
            ) from None

    def _applied(self, turns: Sequence[Turn], *, open_answer: bool = False) -> str:
        messages = [{"role": role, "content": content} for role, content in turns]
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_answer))

    def _accepts(self, turns: Sequence[Turn]) -> bool:
        try:
            return bool(turns) and bool(self._applied(turns))
        except Exception:  # noqa: BLE001 - a template is foreign code
            return False

    def _marked(self, turns: Sequence[Turn], answers: Sequence[int], text: str) -> list[Span] | None:
        """What the template itself marks as generated; None when it does not, or when it is not what wrote the text."""
        if self._marks is None:
            return None
        messages = [{"role": role, "content": content} for role, content in turns]
        again, spans = self._marks.render(messages, self._tokenizer.special_tokens_map)
        spoken = [at for at, (role, _) in enumerate(turns) if role == "assistant"]
        if again != text or len(spans) != len(spoken):
            return None
        return [span for at, span in zip(spoken, spans, strict=True) if at in answers]

    def _difference(self, turns: Sequence[Turn], at: int, text: str, where: str) -> Span | None:
        """Where turn `at` stands in `text`, with what the model writes before its content and the mark that ends it."""
        place = self._place(turns, at, text, where)
        if place is None:  # the template leaves this turn out
            return None
        start, end = place
        opening = self._opening
        if opening and not text.endswith(opening, 0, start) and opening in text:
            # the template writes more before the content than the model is given: an empty thought, the name of a channel
            before = self._place(turns, at - 1, text, where) if at else (0, 0)
            found = text.rfind(opening, before[1], start) if before else -1
            start = found + len(opening) if found >= 0 else start
        ended = self._end_mark.match(text, end)
        return start, ended.end() if ended else end

    def _place(self, turns: Sequence[Turn], at: int, text: str, where: str) -> Span | None:
        """The characters of `text` that depend on the content of turn `at`; None when none does."""
        probe = next(character for character in map(chr, range(0xE000, 0xF8FF)) if character not in text)
        changed = self.conversation([*turns[:at], (turns[at][0], probe), *turns[at + 1 :]], where=where)
        first, last = changed.find(probe), changed.rfind(probe)
        if first < 0:
            return None
        start = first if text.startswith(changed[:first]) else _common(text, changed[:first])
        rest = changed[last + 1 :]
        end = len(text) - (len(rest) if text.endswith(rest) else _common(text[::-1], rest[::-1]))
        return start, max(start, end)

    def _find_opening(self) -> str:
        """What the template adds where the model is to answer; without what it shares with the closed conversation."""
        try:
            closed, opened = (self._applied([("user", "a")], open_answer=each) for each in (False, True))
        except Exception:  # noqa: BLE001 - a template is foreign code
            return ""
        return opened[_common(closed, opened) :]

    def _find_closing(self) -> str:
        """The end token for templates that write no mark after the last answer: without one the model would never learn to stop."""
        try:
            _, _, rest = self._applied([("user", "a"), ("assistant", "\ue000")]).rpartition("\ue000")
        except Exception:  # noqa: BLE001 - a template is foreign code
            return ""
        return "" if rest.strip() else self._end

    def _find_end_mark(self) -> re.Pattern[str]:
        """A control token of the tokenizer with white space before it, and the end token where it follows at once (Cohere writes both)."""
        added = getattr(self._tokenizer, "added_tokens_decoder", None) or {}
        tokens = {self._end, *(str(token.content) for token in added.values() if token.special)} - {""}
        longest_first = sorted(map(re.escape, tokens), key=len, reverse=True)
        either = "|".join([*longest_first, _ANY_MARK])
        return re.compile(rf"\s*(?:{either})(?:{re.escape(self._end)})?")


def _common(one: str, other: str) -> int:
    """How many characters both begin with, by bisection: comparing slices is fast."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
