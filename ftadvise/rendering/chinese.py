"""Chinese for what the rooms below say in English: errors, hints, notes of an estimate.

They raise and note plain English sentences, because their callers are programs as well as people. chinese.yaml holds each of these
sentences once, as it stands in the code with {placeholders} for what the code fills in, beside its Chinese; a sentence is recognised by its
pattern when it is shown. What {problem}, {meaning} and {where} stand for is looked up in turn, because sentences contain sentences; names,
paths and values stay as they are. A sentence that is not there stays English; a test lists the sentences of the code that are missing.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from ftadvise.advisor.texts import Text, message_templates
from ftadvise.profiles.errors import FtadviseError
from ftadvise.profiles.yaml_store import load_yaml

_PLACEHOLDER = re.compile(r"{(\w*)}")
_LOOKED_UP = frozenset({"problem", "meaning", "where"})
_DEEPEST = 4
"""Sentences inside sentences: a file and line, a rule, a problem, its cause."""


def in_language(sentence: str, lang: str) -> str:
    """`sentence`, an English one from the code, in `lang` ("en" or "zh"); as it is where there is no Chinese for it."""
    return _chinese(sentence, _DEEPEST) if lang == "zh" else sentence


def error_words(error: FtadviseError | str, hint: str | None) -> tuple[str, str | None]:
    """Message and hint of an error in Chinese; an error that brings its own Chinese says it."""
    own = getattr(error, "message", None)
    if isinstance(own, Text):
        changes = "；或".join(change.text.zh for change in getattr(error, "changes", ()))
        return own.zh, changes or None
    return in_language(str(error), "zh"), None if hint is None else in_language(hint, "zh")


@functools.cache
def chinese_sentences() -> dict[str, dict[str, str]]:
    """The Chinese of each English sentence, both with {placeholders}: those that stand in the code, and those put together from pieces."""
    sentences: dict[str, dict[str, str]] = load_yaml(Path(__file__).parent / "chinese.yaml")
    return sentences


def _chinese(sentence: str, depth: int) -> str:
    if depth == 0 or not sentence:
        return sentence
    for pieces, chinese in _patterns():
        values = _values(pieces, sentence)
        if values is not None:
            return chinese.format(**values | {name: _chinese(values[name], depth - 1) for name in _LOOKED_UP & values.keys()})
    return sentence


@functools.cache
def _patterns() -> tuple[tuple[list[str], str], ...]:
    """Each sentence in pieces (text, name, text, name, ..., text) with its Chinese: first those that begin with words of their own, then
    those with the most of them."""
    merged = {template["en"]: template["zh"] for template in message_templates().values()}
    for part in chinese_sentences().values():
        merged |= part
    pairs = [(_PLACEHOLDER.split(english), chinese) for english, chinese in merged.items()]
    return tuple(sorted(pairs, key=lambda pair: (not pair[0][0], -sum(map(len, pair[0][::2])))))


def _values(pieces: list[str], sentence: str) -> dict[str, str] | None:
    """What stands in the sentence for each name; None when it is another sentence. Each text is taken where it first occurs: this cannot
    take long, whatever a hostile file makes an error say."""
    first, last = pieces[0], pieces[-1]
    if len(pieces) == 1:
        return {} if sentence == first else None
    if not (sentence.startswith(first) and sentence.endswith(last)):
        return None
    start, end, values = len(first), len(sentence) - len(last), {}
    for name, words in zip(pieces[1:-1:2], pieces[2:-1:2], strict=False):
        at = sentence.find(words, start, end)
        if at < 0:
            return None
        values[name], start = sentence[start:at], at + len(words)
    if start > end:
        return None
    return values | {pieces[-2]: sentence[start:end]}
