"""Tokens and passwords are taken out of whatever is shown or written: messages, logs, reports."""

from __future__ import annotations

import os
import re

_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{10,}")
"""As the hub makes them; libraries quote them in messages and in addresses."""
_IN_ADDRESS = re.compile(r"(://)[^/\s'\"]+@")
_SHORTEST = 8
"""Characters of a variable's value that is taken for a token: a shorter one may be a word."""
_INSTEAD = "***"


def without_secrets(text: str) -> str:
    """`text` with hub tokens, the user name and password of an address, and the values of known variables replaced by `***`."""
    for name in _VARIABLES:
        value = os.environ.get(name, "")
        if len(value) >= _SHORTEST:
            text = text.replace(value, _INSTEAD)
    return _IN_ADDRESS.sub(rf"\1{_INSTEAD}@", _HUB_TOKEN.sub(_INSTEAD, text))
