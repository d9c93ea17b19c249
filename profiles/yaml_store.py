"""YAML from files, parsed once: the result is kept as JSON in the user's cache folder.

Parsing the packaged tables takes about a second in pure Python; the same data as JSON loads in milliseconds. An entry is keyed by the
SHA-256 of the YAML's content, so an edited file is never answered from an old entry. A cache that is missing, unwritable or corrupt is
silently re-made: it can make a start slow, never wrong.

So that a cold and a warm start give the same data, only what JSON can hold is accepted: keys are text, dates stay text, and aliases
(`*name`), which hostile files use to blow up, are refused.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftadvise.profiles.errors import InputError

if TYPE_CHECKING:
    import yaml

MAX_YAML_BYTES = 16 << 20
_CACHE_FORMAT = "1"


def load_yaml(path: Path, *, cache: bool = True) -> Any:
    """The content of one YAML file.

    Args:
        path: the file; UTF-8, at most 16 MiB.
        cache: keep the parsed result for the next start. False for files that are read once, such as a user's plan.

    Raises:
        InputError: missing, unreadable, not UTF-8, too large, or broken YAML (names file, line and key).
    """
    content = _read(path)
    if not cache:
        return _parse(content, path)
    return _cached(path, _digest([(path.name, content)]), lambda: _parse(content, path))


def load_yaml_folder(folder: Path) -> dict[str, Any]:
    """The contents of every `*.yaml` of a folder by file name, in name order; one cache entry for all of them.

    Raises:
        InputError: as `load_yaml`, for the first broken file; or the folder is missing.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    contents = [(path.name, _read(path)) for path in sorted(folder.glob("*.yaml"))]
    parsed: dict[str, Any] = _cached(
        folder, _digest(contents), lambda: {name: _parse(content, folder / name) for name, content in contents}
    )
    return parsed


def cache_folder() -> Path:
    """The user's cache folder for ftadvise (it may not exist yet)."""
    from platformdirs import user_cache_path

    return user_cache_path("ftadvise", appauthor=False)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_YAML_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(content) > MAX_YAML_BYTES:
        raise InputError(f"{path}: larger than {MAX_YAML_BYTES >> 20} MiB, which no YAML file of ours is")
    return content


def _digest(contents: list[tuple[str, bytes]]) -> str:
    digest = hashlib.sha256()
    for name, content in contents:
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _cached(source: Path, content_digest: str, parse: Callable[[], Any]) -> Any:
    """The cache entry of `source` with this digest, or `parse()` stored as one."""
    source_key = hashlib.sha256(str(source.absolute()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    prefix = f"{source.stem}-{source_key}-"
    entry = cache_folder() / "yaml" / f"{prefix}{content_digest[:32]}-{_CACHE_FORMAT}.json"
    with contextlib.suppress(OSError, ValueError, RecursionError):
        stored = json.loads(entry.read_bytes())
        if isinstance(stored, dict) and stored.get("sha256") == content_digest and "data" in stored:
            return stored["data"]
    data = parse()
    with contextlib.suppress(OSError, ValueError, RecursionError):
        _store(entry, json.dumps({"sha256": content_digest, "data": data}, ensure_ascii=False, separators=(",", ":")))
        for old in entry.parent.glob(f"{glob.escape(prefix)}*.json"):
            if old != entry:
                old.unlink(missing_ok=True)
    return data


def _store(entry: Path, text: str) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=entry.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(entry)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _parse(content: bytes, path: Path) -> Any:
    import yaml

    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: not UTF-8", hint="save the file as UTF-8") from None
    loader = _loader_class()(text)
    try:
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise _input_error(error, text, path) from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply") from None
    except ValueError as error:  # a number such as 0x or an int of more than 4300 digits
        raise InputError(f"{path}: {error}") from None
    finally:
        loader.dispose()


def _input_error(error: yaml.YAMLError, text: str, path: Path) -> InputError:
    """One line: file, line, the key the line belongs to, the parser's words."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = " ".join(str(getattr(error, "problem", None) or getattr(error, "reason", None) or error).split())
    if mark is None:
        return InputError(f"{path}: not valid YAML: {problem}")
    lines = text.splitlines()[: mark.line + 1]  # the mark of an unexpected end lies behind the last line
    where = f"{path}, line {max(1, len(lines))}"
    for line in reversed(lines):
        key = re.match(r"""[\s-]*["']?([^\s"'#:\[\]{},&*!|>%@`][^"':]*?)["']?\s*:(\s|$)""", line)
        if key:
            where += f", key {key[1]!r}"
            break
    return InputError(f"{where}: not valid YAML: {problem}")


def _loader_class() -> Any:
    """PyYAML's safe loader (the C one where it is built), restricted to what JSON can hold."""
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class JsonLikeLoader(base):  # type: ignore[misc]
        def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
            if node in self.constructed_objects or node in self.recursive_objects:
                raise yaml.constructor.ConstructorError(None, None, "aliases (*name) are not supported", node.start_mark)
            return super().construct_object(node, deep=deep)

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
            seen = set()
            for key_node, _ in node.value:
                if key_node.tag != "tag:yaml.org,2002:str":
                    problem = (
                        f"a key must be text; put {key_node.value!r} in quotes"
                        if isinstance(key_node, yaml.ScalarNode)
                        else "a key must be text"
                    )
                    raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
                if key_node.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"the key {key_node.value!r} is there twice", key_node.start_mark)
                seen.add(key_node.value)
            mapping: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
            return mapping

    keep = ("str", "int", "float", "bool", "null", "seq", "map")
    JsonLikeLoader.yaml_constructors = {
        tag: function for tag, function in base.yaml_constructors.items() if tag is None or tag.rpartition(":")[2] in keep
    }
    JsonLikeLoader.add_constructor("tag:yaml.org,2002:timestamp", base.construct_scalar)
    return JsonLikeLoader
