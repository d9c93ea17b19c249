"""Text of the files: YAML and JSON through safe dumpers, so that no name or path can become anything but a value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import ftadvise


def yaml_text(values: Mapping[str, Any], comment: str) -> str:
    """Commented YAML. `comment` is one line of ours; what comes from a plan belongs into `values`."""
    import yaml

    return f"# {header()}: {comment}\n" + yaml.dump(dict(values), Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=120)


def json_text(values: Mapping[str, Any]) -> str:
    """Indented JSON."""
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def header() -> str:
    """The first words of every file that allows comments."""
    return f"Written by `ftadvise export` {ftadvise.__version__}"


def _dumper() -> Any:
    """PyYAML's safe dumper without aliases, which not every reader follows (ours refuses them)."""
    import yaml

    base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

    class Dumper(base):  # type: ignore[misc]
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def represent(dumper: Any, text: str) -> Any:
        # PyYAML would write other line breaks as they are in single quotes, where a reader makes spaces of them
        style = '"' if set(text) & set("\x85\u2028\u2029") else "|" if text.endswith("\n") else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Dumper.add_representer(str, represent)
    return Dumper
