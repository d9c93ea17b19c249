"""Reading a JSON object from a file that may be anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ftadvise.profiles.errors import InputError

MAX_CONFIG_BYTES = 4 << 20


def read_json_object(path: Path, source: str | None = None) -> dict[str, Any]:
    """The JSON object in a file of at most 4 MiB; `source` names it in messages instead of its path.

    Raises:
        InputError: missing, unreadable, too large, empty, not UTF-8, not JSON (names the line), or not an object.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise InputError(f"{source or path}: cannot be read ({error.strerror})") from None
    return parse_json_object(content, source or str(path))


def parse_json_object(content: bytes, source: str) -> dict[str, Any]:
    """As `read_json_object`, from bytes; `source` names them in messages."""
    if len(content) > MAX_CONFIG_BYTES:
        raise InputError(f"{source}: larger than {MAX_CONFIG_BYTES >> 20} MiB, which no config.json is")
    if not content.strip():
        raise InputError(f"{source}: the file is empty", hint="download config.json again")
    try:
        parsed = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError(f"{source}: not UTF-8") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{source}, line {error.lineno}: not valid JSON ({error.msg}); is the file truncated?") from None
    except (RecursionError, ValueError) as error:  # nested too deeply; an integer of thousands of digits
        raise InputError(f"{source}: not usable JSON ({error})") from None
    if not isinstance(parsed, dict):
        raise InputError(f"{source}: a config.json holds an object {{...}}, this file holds {type(parsed).__name__}")
    return parsed
