"""Words that come from files or from a model, made safe to show: they cannot move the cursor, change colours, or turn the writing round."""

from __future__ import annotations

import re

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""Control characters, what turns the direction of writing, and half characters: a name has no use for them."""


def printable(words: str) -> str:
    """`words` with each such character replaced; tabs and line ends stay."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", words)


def one_line(words: str) -> str:
    """`printable`, on one line."""
    return " ".join(printable(words).split())
