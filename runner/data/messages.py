"""Lists of messages, as the many formats write them, as turns of (role, content)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ftadvise.profiles.errors import InputError, did_you_mean
from ftadvise.runner.data.rows import Row, Turn

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}
"""What the roles are called in published data, and what we call them."""
_ROLE_KEYS, _CONTENT_KEYS = ("role", "from"), ("content", "value", "text")
_REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
_TOOL_KEYS = ("tool_calls", "function_call")


def text_of(name: str, value: Any) -> str:
    """A text cell; nothing is an empty one.

    Raises:
        InputError: not text, or text that no file of UTF-8 can hold.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{name} must be text, not {type(value).__name__}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(f"{name} holds half a character (an unpaired surrogate)") from None
    return value


def list_of(name: str, value: Any) -> Sequence[Any]:
    """A list; in CSV it stands as JSON.

    Raises:
        InputError: neither.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise InputError(f"{name} is a list in broken JSON") from None
    if not isinstance(value, list):
        raise InputError(f"{name} must be a list, not {type(value).__name__}")
    return value


def is_list(value: Any) -> bool:
    """Whether `list_of` may take it."""
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("["))


def conversation(turns: Sequence[Turn], unlearned: Sequence[int] = ()) -> Row | None:
    """A chat row; None when the assistant says nothing that is to be learned. Empty answers in between are read, not learned."""
    skipped = {*unlearned, *(at for at, (role, content) in enumerate(turns) if role == "assistant" and not content.strip())}
    learned = [at for at, (role, _) in enumerate(turns) if role == "assistant" and at not in skipped]
    return Row("messages", turns=tuple(turns), unlearned=tuple(sorted(skipped))) if learned else None


def messages_of(name: str, value: Any) -> tuple[list[Turn], list[int]]:
    """The turns of a list of messages, and the positions of those that carry `weight: 0` or `train: false` (not to be learned).

    Raises:
        InputError: no list of messages, an unknown role, or content that is not text.
    """
    turns: list[Turn] = []
    unlearned: list[int] = []
    for number, message in enumerate(list_of(name, value), 1):
        if not isinstance(message, Mapping):
            raise InputError(f"{name} {number}: each message needs a role and content, this is {type(message).__name__}")
        role = _role(f"{name} {number}", message)
        content = _content(f"{name} {number}", message)
        if message.get("weight") in (0, 0.0) or message.get("train") is False:
            unlearned.append(len(turns))
        turns.append((role, content))
    return turns, unlearned


def _role(where: str, message: Mapping[str, Any]) -> str:
    said = next((message[key] for key in _ROLE_KEYS if message.get(key) is not None), None)
    role = _ROLES.get(said.strip().lower()) if isinstance(said, str) else None
    if role is None:
        known = "system, user, assistant, tool"
        found = f", not {said[:40]!r}" if isinstance(said, str) else ""
        hint = did_you_mean(said, _ROLES) if isinstance(said, str) else None
        raise InputError(f"{where}: each message needs a role ({known}){found}", hint=hint)
    return role


def _content(where: str, message: Mapping[str, Any]) -> str:
    if any(message.get(key) for key in _TOOL_KEYS):
        raise InputError(f"{where}: tool calls cannot be learned yet", hint="--skip-broken leaves such rows out")
    key = next((key for key in _CONTENT_KEYS if key in message), None)
    if key is None:
        raise InputError(f"{where}: each message needs content, found {', '.join(map(str, message))[:80]}")
    value = message[key]
    if isinstance(value, list):
        value = "".join(_part(where, part) for part in value)
    content = text_of(f"{where}: {key}", value)
    reasoning = next((message[each] for each in _REASONING_KEYS if message.get(each)), None)
    if reasoning is not None:  # as the templates of reasoning models take it apart again
        content = f"<think>\n{text_of(where, reasoning).strip()}\n</think>\n\n{content}"
    return content


def _part(where: str, part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and (part.get("type") in ("text", None)) and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise InputError(f"{where}: only text can be learned, not {str(kind)[:40]}", hint="--skip-broken leaves such rows out")
